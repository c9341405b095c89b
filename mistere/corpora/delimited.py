"""Read delimited text (CSV, TSV) strictly: a quote that is not closed, or that joins several rows, is an error.

The csv module accepts such a quote and returns fewer rows, whose texts contain the other rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mistere.common.errors import DataError
from mistere.corpora.text_files import read_lines
from mistere.data.text_repair import FALLBACK

Quotes = Literal["csv", "text"]
"""``csv``: quotes enclose fields, and a quote inside is written twice; ``text``: quotes are ordinary characters."""
_MOST_QUOTES = 50


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Attributes:
        cells: its fields.
        first: number of its first line, from 1.
        lines: its lines, if there are several; otherwise empty.
    """

    cells: list[str]
    first: int
    lines: tuple[str, ...] = ()

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.first + max(0, len(self.lines) - 1)

    @property
    def position(self) -> str:
        """``line 4``, or ``lines 4 to 6``."""
        return _position(self.first, self.last)


def read_records(
    path: Path, delimiter: str = ",", *, quotes: Quotes = "csv", errors: str = FALLBACK, hint: str = ""
) -> Iterator[Record]:
    """The rows of a delimited file that are not blank.

    Args:
        path: the file.
        delimiter: separator of the fields, one character.
        quotes: see :data:`Quotes`.
        errors: as for :func:`read_lines`.
        hint: how to fix wrong quotes, for the error; a full clause.

    Raises:
        DataError: as :func:`read_lines`, or a quote is not closed or is followed by more text.
    """
    consumed: list[str] = []

    def lines() -> Iterator[str]:
        for line in read_lines(path, errors=errors):
            consumed.append(line)
            yield line

    if quotes == "csv":
        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    else:
        reader = csv.reader(lines(), delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    while True:
        first = reader.line_num + 1
        consumed.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            position = _position(first, max(first, reader.line_num))
            if "field larger" in str(error):
                hint = (
                    "a quote is not closed, or the table holds recordings: store those as files, in JSONL or in parquet"
                )
            raise DataError(f"{path}, {position}: not readable as CSV ({error}){hint and ': '}{hint}.") from error
        if any(cell.strip() for cell in cells):
            yield Record(cells, first, tuple(consumed) if len(consumed) > 1 else ())


def whole_lines(record: Record, delimiter: str, fields: int) -> list[list[str]]:
    """The lines of a record of several lines that are whole rows if one of their quotes is an ordinary character.

    Two of them are a sign that a quote has joined rows: a line break inside of a field leaves parts of a row.
    """
    rows = [_as_row(line, delimiter, fields) for line in record.lines]
    return [row for row in rows if row is not None]


def _as_row(line: str, delimiter: str, fields: int) -> list[str] | None:
    content = line.rstrip("\r\n")
    plain = content.split(delimiter)
    if len(plain) == fields:
        return plain
    quotes = [index for index, character in enumerate(content) if character == '"'][:_MOST_QUOTES]
    for candidate in (content, *(content[:index] + content[index + 1 :] for index in quotes)):
        try:
            (row,) = csv.reader([candidate], delimiter=delimiter, strict=True)
        except (csv.Error, ValueError):
            continue
        if len(row) == fields:
            return row
    return None


def read_delimited(path: Path, delimiter: str = ",", *, errors: str = FALLBACK) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not blank, each with the number of its first line.

    Raises:
        DataError: as :func:`read_records`, or a quote joins rows.
    """
    fields = 0
    for record in read_records(path, delimiter, errors=errors, hint="write a quote inside of a field twice"):
        fields = fields or len(record.cells)
        if len(whole_lines(record, delimiter, fields)) > 1:
            raise DataError(
                f"{path}, {record.position}: a quote joins lines that are rows of their own: close it where its field ends."
            )
        yield record.first, record.cells


def read_table(
    path: Path, required: Sequence[str], delimiter: str = ",", *, errors: str = FALLBACK
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, by column, each with the number of its first line.

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
    check_header(path, header, required)
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} fields, where the header has {len(header)}.")
        yield line, dict(zip(header, row, strict=True))


def check_header(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    """Check that each required column is there once.

    Raises:
        DataError: one is missing or duplicate.
    """
    for column in required:
        if header.count(column) != 1:
            state = "names the column {!r} twice" if column in header else "lacks the column {!r}"
            raise DataError(f"{path} {state.format(column)}; it has {', '.join(header) or 'none'}.")


def _position(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"
