"""Read and check the rows of a table (CSV, TSV, JSONL or parquet) without loading its audio."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, UsageError
from mistere.common.splits import Split
from mistere.corpora.delimited import Quotes
from mistere.corpora.tables.audio import Mark, mark
from mistere.corpora.tables.cells import is_missing_text, name_of, split_of_cell, text_of, turn_of, whole_numbers
from mistere.corpora.tables.context import NO_CONTEXT, ContextRule
from mistere.corpora.tables.dialect import DELIMITERS, DelimitedTable, detect_dialect, shown_delimiter, usual_delimiter
from mistere.corpora.tables.sources import JsonLines, Parquet
from mistere.data.dataset import OPTIONAL_COLUMNS
from mistere.data.text_repair import decode_again

COLUMNS = ("dialogue_id", "turn", "text", "audio", "label", "speaker", "split", *OPTIONAL_COLUMNS)
_JSON_LINES = frozenset({".jsonl", ".ndjson"})
_PARQUET = frozenset({".parquet", ".pq"})

NO_CLASS = -1
"""The class that ``datasets`` stores for a missing label."""
_PROBLEM = "problem"
"""Column of a quarantine file that says what was wrong; nobody needs to import it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``label`` is None for a context turn. ``audio`` is the path in the table; ``embedded`` is True if the table itself holds
    the audio.
    """

    where: str
    dialogue: str
    turn: int | None
    text: str | None
    label: str | None
    speaker: str | None
    split: Split | None
    role: str | None = None
    language: str | None = None
    audio: str | None = None
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a table in order.

    Attributes:
        rows: the rows, without audio.
        columns: the columns of the dataset form (and ``split``) that the table has.
        names: the name of each column in the table.
        notes: what was changed or left out while reading, in sentences.
        class_names: the names of the labels, if the table stores numbers and their names (``datasets`` does).
        source: the opened file, for its audio.
    """

    rows: list[Row]
    columns: frozenset[str]
    names: Mapping[str, str]
    notes: Sequence[str]
    class_names: Sequence[str]
    source: DelimitedTable | JsonLines | Parquet

    @property
    def embedded(self) -> bool:
        """Whether the table itself holds audio."""
        return any(row.embedded for row in self.rows)

    def audio(self) -> Iterator[tuple[str, Any]]:
        """The location and the audio cell of each row; see :func:`mistere.corpora.tables.audio.content`."""
        if isinstance(self.source, DelimitedTable):
            column = self.names["audio"]
            return ((where, row[column]) for where, row in self.source.rows([column]))
        return self.source.audio(self.names["audio"])


def read_rows(
    source: Path,
    columns: Mapping[str, str],
    *,
    text_only: bool,
    delimiter: str = "",
    quotes: Quotes | Literal["auto"] = "auto",
    context: ContextRule = NO_CONTEXT,
    features: bool = False,
) -> Table:
    """Read and check a table without its audio.

    Args:
        source: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        columns: names in the table of columns of :data:`COLUMNS`, if they differ.
        text_only: ignore the audio column.
        delimiter: separator of the fields of a CSV or TSV file; empty to detect it.
        quotes: whether quotes enclose the fields of a CSV or TSV file; ``auto`` to detect it.
        context: which turns have no label.
        features: whether the utterances have further modalities, so that the table needs neither text nor audio.

    Raises:
        UsageError: the file or a required column is missing, ``columns`` names a column that does not exist, the file has another
            extension, or an option does not apply.
        DataError: the table is unreadable, or a row is invalid.
    """
    for name in columns:
        if name not in COLUMNS:
            raise UsageError(f"--column: {name!r} is no column of the dataset form; it has {', '.join(COLUMNS)}.")
    if not source.is_file():
        raise UsageError(f"{source} is missing or no file: a table (.csv, .tsv, .jsonl or .parquet) is expected there.")
    names = {name: columns.get(name, name) for name in COLUMNS}
    file = _opened(source, names, delimiter, quotes)
    present = file.columns
    if delimiter and isinstance(file, DelimitedTable) and len(present) == 1:
        _check_delimiter(source, present[0], delimiter)
    for name, own in columns.items():
        if own not in present:
            raise UsageError(
                f"--column: {source} has no column {own!r} for {name}; it has {', '.join(present) or 'none'}."
            )
    if not present:
        raise DataError(f"{source} is empty: name a table with a header and a row for each utterance.")
    used = frozenset(name for name, own in names.items() if own in present) - ({"audio"} if text_only else set())
    _check_columns(source, file, used, text_only, features)
    if context.predict_roles and "role" not in used:
        raise UsageError(
            f"{source} has no column 'role', which says whose turns are predicted ({', '.join(context.predict_roles)}): add "
            "--column role=COLUMN."
        )
    class_names = file.class_names(names["label"]) if isinstance(file, Parquet) else []
    wanted = [names[name] for name in COLUMNS if name in used]
    values = file.rows(wanted, names["audio"]) if isinstance(file, Parquet) else file.rows(wanted)
    missing: Counter[tuple[str, str]] = Counter()
    rows = []
    for where, row in values:
        cells = {name: row.get(names[name]) for name in used}
        if class_names and context.unlabelled and cells["label"] == NO_CLASS:
            cells["label"] = None
        rows.append(_row(where, cells, missing, context))
    if not rows:
        raise DataError(f"{source} holds no rows: name a table with a row for each utterance.")
    rows, numbers = _with_whole_numbers(rows)
    rows, repaired = _with_repaired_texts(rows)
    notes = [
        *file.notes,
        *numbers,
        *repaired,
        *_missing_notes(missing),
        *_unmapped_notes(present, used, names, text_only),
    ]
    return Table(rows, used, names, notes, class_names, file)


def _opened(
    source: Path, names: dict[str, str], delimiter: str, quotes: Quotes | Literal["auto"]
) -> DelimitedTable | JsonLines | Parquet:
    kind = source.suffix.lower()
    if kind in DELIMITERS:
        dialect = detect_dialect(source, delimiter, quotes, [names["dialogue_id"], names["label"]])
        return DelimitedTable(source, dialect, names)
    if kind not in _JSON_LINES | _PARQUET:
        raise UsageError(f"{source} is none of the tables that are read: .csv, .tsv, .jsonl or .parquet.")
    if delimiter or quotes != "auto":
        raise UsageError(f"{source} has no delimiter and no quotes: leave out --delimiter and --quotes.")
    return JsonLines(source) if kind in _JSON_LINES else Parquet(source)


def _check_delimiter(source: Path, header: str, delimiter: str) -> None:
    """Refuse a delimiter that does not occur in a header in which another one does, before its columns are looked for.

    Raises:
        UsageError: it does not.
    """
    if found := usual_delimiter(header):
        raise UsageError(
            f"--delimiter {shown_delimiter(delimiter)}: the header of {source} has no such separator ({header[:100]}); leave the option out, or "
            f"name {shown_delimiter(found)}."
        )


def _check_columns(
    source: Path, file: DelimitedTable | JsonLines | Parquet, used: frozenset[str], text_only: bool, features: bool
) -> None:
    """Name all columns that every table needs and this one lacks at once, with the options that name them."""
    wanted = ("dialogue_id", "label") if features or used & {"text", "audio"} else ("dialogue_id", "label", "text")
    lacking = [name for name in wanted if name not in used]
    if not lacking:
        return
    names = [repr(name) if name != "text" or text_only else "'text' or 'audio'" for name in lacking]
    options = " ".join(f"--column {name}=COLUMN" for name in lacking)
    hint = ", or the separator with --delimiter" if isinstance(file, DelimitedTable) and len(file.columns) == 1 else ""
    raise UsageError(
        f"{source} has no column {' and no column '.join(names)} (it has {', '.join(file.columns)}): add {options}{hint}."
    )


def _row(where: str, values: Mapping[str, Any], missing: Counter[tuple[str, str]], context: ContextRule) -> Row:
    columns = ("dialogue_id", "label", "speaker", *OPTIONAL_COLUMNS)
    names = {column: name_of(values.get(column), column, where) for column in columns}
    dialogue = names["dialogue_id"]
    if dialogue is None:
        raise DataError(f"{where}: there is no dialogue_id{_cell(values)}; every utterance belongs to a dialogue.")
    label = context.label(names["label"], names["role"], where, _cell(values, "label"))
    for column in ("speaker", *OPTIONAL_COLUMNS):
        if names[column] is None:
            _count_missing(values.get(column), column, missing)
    text = text_of(values.get("text"), "text", where)
    if text is None or is_missing_text(text):
        _count_missing(values.get("text"), "text", missing)
        text = None
    audio = values.get("audio")
    if isinstance(audio, str):
        audio = text_of(audio, "audio", where)
        if audio is not None and is_missing_text(audio):
            _count_missing(audio, "audio", missing)
            audio = None
    held = audio if isinstance(audio, Mark) else mark(audio, where)
    return Row(
        where=where,
        dialogue=dialogue,
        turn=turn_of(values["turn"], where) if "turn" in values else None,
        text=text,
        label=label,
        speaker=names["speaker"],
        role=names["role"],
        language=names["language"],
        split=split_of_cell(values["split"], where) if "split" in values else None,
        audio=text_of(held.path, "audio", where),
        embedded=held.embedded,
    )


def _cell(values: Mapping[str, Any], column: str = "dialogue_id") -> str:
    """What stands in a cell that means a missing value, such as ``nan``."""
    value = values[column]
    return f" (the cell is {value.strip()[:20]!r})" if isinstance(value, str) and value.strip() else ""


def _count_missing(value: object, column: str, missing: Counter[tuple[str, str]]) -> None:
    if isinstance(value, str) and value.strip():
        missing[column, value.strip() if value.strip().isprintable() else ""] += 1


def _with_whole_numbers(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Write names that are whole numbers without decimals, column by column."""
    notes = []
    columns = {"dialogue": "dialogue_id", "label": "label", "speaker": "speaker"}
    changes = {}
    for attribute, column in columns.items():
        changed = whole_numbers(name for row in rows if (name := getattr(row, attribute)) is not None)
        if changed:
            one = min(changed)
            notes.append(f"{column}: whole numbers with decimals are read as whole numbers ({one} as {changed[one]}).")
            changes[attribute] = changed
    if not changes:
        return rows, notes
    return [
        replace(row, **{name: changed.get(getattr(row, name), getattr(row, name)) for name, changed in changes.items()})
        for row in rows
    ], notes


def _with_repaired_texts(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Decode texts again that were decoded with the wrong encoding; lost characters (U+FFFD) stay for the validation to report."""
    texts = [row.text and decode_again(row.text) for row in rows]
    damaged = sum(text != row.text for text, row in zip(texts, rows, strict=True))
    if not damaged:
        return rows, []
    note = f"{counted(damaged, 'text')} had characters damaged by a wrong encoding: {plural(damaged, 'it is', 'they are')} repaired."
    return [row if text == row.text else replace(row, text=text) for text, row in zip(texts, rows, strict=True)], [note]


def _missing_notes(missing: Counter[tuple[str, str]]) -> list[str]:
    return [
        f"{column}: {counted(count, 'cell')} with nothing but {repr(written) if written else 'invisible characters'} "
        f"{'counts' if count == 1 else 'count'} as empty."
        for (column, written), count in sorted(missing.items())
    ]


def _unmapped_notes(
    present: Sequence[str], used: frozenset[str], names: Mapping[str, str], text_only: bool
) -> list[str]:
    """Name the columns that are not imported, and what a missing speaker means."""
    imported = {names[name] for name in used} | ({names["audio"]} if text_only else set())
    left = [name for name in present if name not in imported]
    if {*present, *OPTIONAL_COLUMNS} == {*COLUMNS, _PROBLEM}:
        left.remove(_PROBLEM)
    notes = []
    if left:
        shown = ", ".join(name[:60] or "one without a name" for name in left)
        notes.append(f"Columns that are not imported: {shown}.")
    for column in COLUMNS:
        similar = [name for name in left if _resembles(name, column)]
        if column not in used and similar and not (text_only and column == "audio"):
            lost = (
                " Without speakers, nothing checks that the splits have different ones." if column == "speaker" else ""
            )
            notes.append(
                f"No column is imported as {column}; if it is {similar[0]}, add --column {column}={similar[0]}.{lost}"
            )
    return notes


def _resembles(name: str, column: str) -> bool:
    """Whether one of the words of a name begins like the column's: ``Speaker_ID``, ``audio path``."""
    return any(word.startswith(column) for word in re.split("[^a-z]+", name.lower()))
