"""Read untrusted text files and tables line by line; every fault is reported in one sentence."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
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
    number = 0
    try:
        with path.open(encoding="utf-8-sig", errors=errors, newline="") as file:
            for number, line in enumerate(file, start=1):
                if "\0" in line:
                    raise DataError(
                        f"{path}, line {number}: there is a NUL byte, so this is not a text file: save it as UTF-8."
                    )
                yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: the text is not UTF-8: save the file as UTF-8.") from error
    except OSError as error:
        raise MistereError(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def read_delimited(path: Path, delimiter: str = ",", *, errors: str = FALLBACK) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, each with the number of its last line.

    Raises:
        DataError: as :func:`read_lines`, or the file is not CSV.
    """
    reader = csv.reader(read_lines(path, errors=errors), delimiter=delimiter)
    try:
        for row in reader:
            if any(value.strip() for value in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not readable as CSV ({error}).") from error


def read_table(
    path: Path, required: Sequence[str], delimiter: str = ",", *, errors: str = FALLBACK
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, by column, each with the number of its last line.

    Args:
        path: the file.
        required: columns that must exist.
        delimiter: separator of the fields.
        errors: as for :func:`read_lines`.

    Raises:
        DataError: as :func:`read_delimited`, or a column is missing or duplicate, or a row has another number of fields.
    """
    rows = read_delimited(path, delimiter, errors=errors)
    _, first = next(rows, (0, []))
    header = [name.strip() for name in first]
    for column in required:
        if header.count(column) != 1:
            state = "names the column {!r} twice" if column in header else "lacks the column {!r}"
            raise DataError(f"{path} {state.format(column)}; it has {', '.join(header) or 'none'}.")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} fields, where the header has {len(header)}.")
        yield line, dict(zip(header, row, strict=True))
