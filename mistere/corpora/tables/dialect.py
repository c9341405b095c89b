"""How a delimited table separates and encloses its fields: as the options say, or as its header shows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mistere.common.counting import counted
from mistere.common.errors import DataError, UsageError
from mistere.corpora.delimited import Quotes, Record, check_header, read_records, whole_lines
from mistere.corpora.tables.cells import is_split, is_turn
from mistere.corpora.text_files import read_lines

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""The delimiter by extension, unless the header shows another one."""
_CANDIDATES = (",", ";", "\t", "|")
_NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "bar": "|", "space": " "}
_QUOTE_HINT = (
    "write a quote inside of a field twice, or add --quotes text if quotes are ordinary characters in this file"
)
_WORD = re.compile(r"[\w.-]{1,40}")


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a delimited table.

    Attributes:
        delimiter: separator of the fields.
        quotes: whether quotes enclose fields.
        joined_allowed: whether a quoted field may hold lines that look like rows; only if the user names ``quotes``.
        skipped: lines before the header (``sep=;``, which Excel writes).
        note: what was found out, if it differs from the extension.
    """

    delimiter: str
    quotes: Quotes
    joined_allowed: bool
    skipped: int = 0
    note: str = ""


def parse_delimiter(typed: str) -> str:
    """A delimiter as typed: one character, or a name such as ``tab``.

    Raises:
        UsageError: it is neither.
    """
    delimiter = _NAMES.get(typed.strip().lower() or typed, typed)
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise UsageError(f"--delimiter {typed}: name one character, or one of {', '.join(sorted(_NAMES))}.")
    return delimiter


def detect_dialect(source: Path, delimiter: str, quotes: Quotes | Literal["auto"], required: Sequence[str]) -> Dialect:
    """The form of a table, from the options and its header.

    Args:
        source: the table.
        delimiter: as given by the user; empty to detect it.
        quotes: as given by the user; ``auto`` to detect it.
        required: columns that the header must have.

    Raises:
        DataError: the file cannot be read.
    """
    usual = DELIMITERS[source.suffix.lower()]
    header, skipped, announced = "", 0, ""
    for line in read_lines(source, errors="strict"):
        header = line.rstrip("\r\n")
        if len(header.strip()) == 5 and header.lower().startswith("sep="):
            announced, skipped = header.strip()[-1], 1
        elif header.strip():
            break
    chosen = delimiter or announced or _shown(header, usual, required)
    note = "" if delimiter or chosen == usual else f"The fields are separated by {chosen!r}, as the header shows."
    enclosed = bool(header) and all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in header.split(chosen))
    found: Quotes = "text" if usual == "\t" and not enclosed else "csv"
    return Dialect(chosen, found if quotes == "auto" else quotes, quotes != "auto", skipped, note)


def _shown(header: str, usual: str, required: Sequence[str]) -> str:
    """The delimiter with which the header has the required columns; if none has, the one with which it has most columns."""
    candidates = (usual, *(other for other in _CANDIDATES if other != usual))
    for candidate in candidates:
        if set(required) <= set(_split_header(header, candidate)):
            return candidate
    # The error about the missing column then lists the columns one by one; of equal counts the usual delimiter is first.
    return max(candidates, key=lambda candidate: len(_split_header(header, candidate)))


def usual_delimiter(header: str) -> str:
    """The usual delimiter that occurs most in a header; empty if none does."""
    found = max(_CANDIDATES, key=header.count)
    return found if found in header else ""


def shown_delimiter(delimiter: str) -> str:
    """A delimiter as ``--delimiter`` takes it."""
    return "tab" if delimiter == "\t" else "space" if delimiter == " " else f"'{delimiter}'"


def _split_header(header: str, delimiter: str) -> list[str]:
    try:
        (cells,) = csv.reader([header], delimiter=delimiter)
    except (csv.Error, ValueError):
        return []
    return [cell.strip() for cell in cells]


class DelimitedTable:
    """The rows of a delimited table.

    Args:
        source: the table.
        dialect: its form.
        names: the table's column for each column of the dataset form.

    Attributes:
        columns: the header.
        notes: a sentence for each peculiarity of the file that the user should know; complete once the rows are read.
    """

    def __init__(self, source: Path, dialect: Dialect, names: dict[str, str]) -> None:
        self._source, self._dialect, self._names = source, dialect, names
        self.notes = [dialect.note] if dialect.note else []
        header = next(self._records(), None)
        self.columns = [name.strip() for name in header.cells] if header else []

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
        """The location and the fields of each row.

        Args:
            wanted: columns that must be there.

        Raises:
            DataError: a column is missing or duplicate, a row has another number of fields than the header, or a quote joins rows.
        """
        check_header(self._source, self.columns, wanted)
        records = self._records()
        next(records, None)
        seen: dict[str, set[str]] = {"label": set(), "dialogue_id": set()}
        suspects: list[tuple[Record, list[dict[str, str]]]] = []
        broken, doubled = _Counted(), _Counted()
        for record in records:
            if len(record.cells) != len(self.columns):
                raise DataError(self._ragged(record))
            row = dict(zip(self.columns, record.cells, strict=True))
            if record.lines:
                broken.add(record.first)
                self._suspect(record, suspects)
            else:
                for name, values in seen.items():
                    values.add(row.get(self._names[name], "").strip())
            if self._dialect.quotes == "text" and any(_looks_quoted(cell) for cell in record.cells):
                doubled.add(record.first)
            yield f"{self._source}, line {record.first}", row
        for record, rows in suspects:
            self._refuse_joined(record, rows, seen)
        if broken.count:
            self.notes.append(
                f"Line breaks inside of a field: {counted(broken.count, 'row')}, the first in line {broken.first}."
            )
        if doubled.count:
            self.notes.append(
                f"Fields that are enclosed in quotes as in CSV: {counted(doubled.count, 'row')}, the first in line {doubled.first}; "
                "quotes are imported as text: add --quotes csv if they enclose the fields."
            )

    def _records(self) -> Iterator[Record]:
        records = read_records(
            self._source, self._dialect.delimiter, quotes=self._dialect.quotes, errors="strict", hint=_QUOTE_HINT
        )
        for _ in range(self._dialect.skipped):
            next(records, None)
        return records

    def _ragged(self, record: Record) -> str:
        if self._dialect.quotes == "csv":
            cause = "a field that holds the delimiter, a quote or a line break is enclosed in quotes"
        else:
            cause = "no field holds the delimiter or a line break, unless quotes enclose it: then add --quotes csv"
        return (
            f"{self._source}, {record.position}: {len(record.cells)} fields, where the header has {len(self.columns)}: {cause}; "
            f"if the fields are not separated by {self._dialect.delimiter!r}, add --delimiter."
        )

    def _suspect(self, record: Record, suspects: list[tuple[Record, list[dict[str, str]]]]) -> None:
        if self._dialect.joined_allowed:
            return
        lines = whole_lines(record, self._dialect.delimiter, len(self.columns))
        rows = [
            {name: _unquoted(cells[self.columns.index(column)]) for name, column in self._present()} for cells in lines
        ]
        rows = [row for row in rows if _may_be_row(row)]
        if len(rows) > 1:
            suspects.append((record, rows))

    def _present(self) -> list[tuple[str, str]]:
        return [(name, column) for name, column in self._names.items() if column in self.columns]

    def _refuse_joined(self, record: Record, rows: list[dict[str, str]], seen: dict[str, set[str]]) -> None:
        """Refuse a record whose lines look like rows of this table: by turn or split, by known names, or by a label of one word.

        In a text of several lines with as many commas, spaces follow the commas.
        """
        typed = "turn" in rows[0] or "split" in rows[0]
        dialogues = seen["dialogue_id"] | {rows[0]["dialogue_id"].strip()}
        known = any(
            row["label"].strip() in seen["label"] or row["dialogue_id"].strip() in dialogues for row in rows[1:]
        )
        if typed or known or all(_WORD.fullmatch(row["label"]) for row in rows):
            raise DataError(
                f"{self._source}, {record.position}: a quote joins lines that are rows of their own: close it where its field ends, "
                "write a quote inside of a field twice, or add --quotes text if quotes are ordinary characters in this file "
                "(--quotes csv if the lines do belong to one field)."
            )


@dataclass(slots=True)
class _Counted:
    count: int = 0
    first: int = 0

    def add(self, line: int) -> None:
        self.first = self.first or line
        self.count += 1


def _may_be_row(row: dict[str, str]) -> bool:
    if not row.get("dialogue_id", "").strip() or not row.get("label", "").strip():
        return False
    return is_turn(row.get("turn", "0")) and is_split(row.get("split", "train"))


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def _looks_quoted(cell: str) -> bool:
    """Whether only CSV's rules explain the quotes of a field: they enclose it, and those inside come in pairs."""
    inside = cell[1:-1]
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in inside and '"' not in inside.replace('""', "")
