"""What a process prints: it ends quietly when its reader is gone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from typing import Any, Final, NoReturn, TextIO, cast

AFFECTS_RESULTS = False
"""What is printed changes no result."""

BROKEN_PIPE: Final = 141
"""Exit code after writing to a pipe without a reader: 128 + SIGPIPE, as the shell reports a program that the signal ends.

The signal itself stays ignored, as Python sets it: it would also end the process when a network peer closes a connection.
"""


class GuardedStream:
    """A text stream that ends the process, with exit code 141 and without a message, when nothing reads it any more.

    Everything else is the wrapped stream's.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text."""
        try:
            self._stream.write(text)
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
    """Guard the standard output and the standard error of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, GuardedStream):
            setattr(sys, name, cast(TextIO, GuardedStream(stream)))
