"""What a process prints and logs: secrets are masked, and it ends quietly when its reader is gone."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import IO, Any, Final, NoReturn, TextIO, cast

from mistere.common.secrets.redaction import redact

AFFECTS_RESULTS = False
"""What is printed changes no result."""

BROKEN_PIPE: Final = 141
"""Exit code after writing to a pipe without a reader: 128 + SIGPIPE, as the shell reports a program that the signal ends.

The signal itself stays ignored, as Python sets it: it would also end the process when a network peer closes a connection.
"""
_CHUNK_BYTES: Final = 1 << 16


class GuardedStream:
    """A text stream that masks secrets, and ends the process with exit code 141 when nothing reads it any more.

    Everything else is the wrapped stream's.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        try:
            self._stream.write(redact(text))
        except OSError as error:
            self._end(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._end(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _end(self, error: OSError) -> NoReturn:
        if error.errno != errno.EPIPE:
            raise error
        nowhere = os.open(
            os.devnull, os.O_WRONLY
        )  # for what is still buffered, which the interpreter flushes at the end
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        raise SystemExit(BROKEN_PIPE) from None


def guard_streams() -> None:
    """Guard the standard output, the standard error and the log of this process; tracebacks go through them too.

    Log records are masked when they are made: a handler may have been given the unguarded stream before.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, GuardedStream):
            setattr(sys, name, cast(TextIO, GuardedStream(stream)))
    factory = logging.getLogRecordFactory()
    if not (isinstance(factory, partial) and factory.func is _masked_record):
        logging.setLogRecordFactory(partial(_masked_record, factory))


def _masked_record(factory: Callable[..., logging.LogRecord], /, *arguments: Any, **fields: Any) -> logging.LogRecord:
    record = factory(*arguments, **fields)
    record.msg = record.msg if record.args else _masked(record.msg)
    if isinstance(record.args, Mapping):
        record.args = {name: _masked(value) for name, value in record.args.items()}
    elif record.args:
        record.args = tuple(_masked(value) for value in record.args)
    if record.args:
        _mask_formatted(record)
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
    return record


def _mask_formatted(record: logging.LogRecord) -> None:
    """Mask what only the whole message shows to be secret, such as ``token=%s``; masking the format would lose its ``%s``."""
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # logging itself reports a format that does not fit
        return
    masked = redact(message)
    if masked != message:
        record.msg, record.args = masked, ()


def _masked(value: Any) -> Any:
    """Text and errors masked; other values, which a format may need as they are, unchanged."""
    return redact(str(value)) if isinstance(value, str | BaseException) else value


def copy_redacted(source: IO[bytes], target: IO[bytes]) -> threading.Thread:
    """Copy the output of a process to a file, in a thread, with secrets masked.

    Args:
        source: the read end of its output; closed at its end.
        target: the file; closed at the end.

    Returns:
        The thread, which ends with the last process that holds the write end.
    """
    thread = threading.Thread(target=_copy, args=(source, target), name="redacted-log", daemon=True)
    thread.start()
    return thread


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    with source, target:
        rest = b""
        while chunk := os.read(source.fileno(), _CHUNK_BYTES):
            text = rest + chunk
            complete = _complete(text) if len(text) < 16 * _CHUNK_BYTES else len(text)
            _write_redacted(target, text[:complete])
            rest = text[complete:]
        _write_redacted(target, rest)


def _complete(text: bytes) -> int:
    """Number of bytes that can be masked: complete lines, before a private key whose end is still missing."""
    end = text.rfind(b"\n") + 1
    key = text.rfind(b"-----BEGIN ", 0, end)
    if key < 0 or b"PRIVATE KEY-----" not in text[key:].split(b"\n", 1)[0] or b"-----END " in text[key:end]:
        return end
    return text.rfind(b"\n", 0, key) + 1


def _write_redacted(target: IO[bytes], text: bytes) -> None:
    target.write(redact(text.decode("utf-8", "replace")).encode())
    target.flush()
