"""Read untrusted text files line by line; every fault is reported in one sentence."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from mistere.common.errors import DataError, MistereError, UsageError
from mistere.data.text_repair import FALLBACK


def read_lines(path: Path, *, errors: str = FALLBACK) -> Iterator[str]:
    """The lines of a UTF-8 file, with unchanged line endings.

    Args:
        path: the file; a byte order mark is skipped.
        errors: how to treat other bytes: :data:`FALLBACK` decodes them as Windows-1252, ``strict`` refuses them.

    Raises:
        UsageError: the file is missing.
        MistereError: it cannot be read.
        DataError: it holds NUL bytes or, if ``strict``, invalid UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"{path} is missing or no file: a text file is expected there.")
    try:
        _check_encoding(path)
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise DataError(
                        f"{path}, line {number}: there is a NUL byte, so this is not a text file: save it as UTF-8."
                    )
                yield line
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {_undecodable_line(path)}: the text is not UTF-8: save the file as UTF-8 (spreadsheets call it CSV UTF-8)."
        ) from error
    except OSError as error:
        raise MistereError(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def _undecodable_line(path: Path) -> int:
    """The number of the first line that is not UTF-8; the error itself is about a block of many lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _check_encoding(path: Path) -> None:
    """Refuse UTF-16 and UTF-32, which spreadsheets export as "Unicode text", by their byte order marks."""
    with path.open("rb") as file:
        mark = file.read(2)
    if mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path} is UTF-16, not UTF-8: save the file as UTF-8.")
