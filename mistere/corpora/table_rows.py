"""Read and check the rows of a table (CSV, TSV, JSONL or parquet) without loading its audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistere.common.errors import DataError, UsageError
from mistere.common.parsing.documents import ParseError, load_json
from mistere.common.parsing.parquet import open_parquet, row_batches
from mistere.common.splits import Split
from mistere.corpora.text_files import read_delimited, read_lines, read_table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

COLUMNS = ("dialogue_id", "turn", "text", "audio", "label", "speaker", "split")
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test",
}  # fmt: skip
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_LINES = frozenset({".jsonl", ".ndjson"})
_PARQUET = frozenset({".parquet", ".pq"})
_ROWS_PER_BATCH = 128


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``audio`` is the path in the table; ``embedded`` is True if the table itself holds the audio."""

    where: str
    dialogue: str
    turn: int | None
    text: str | None
    label: str
    speaker: str | None
    split: Split | None
    audio: str | None = None
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a table in order.

    Attributes:
        rows: the rows, without audio.
        columns: the columns of the dataset form (and ``split``) that the table has.
        names: the name of each column in the table.
    """

    rows: list[Row]
    columns: frozenset[str]
    names: Mapping[str, str]

    @property
    def embedded(self) -> bool:
        """Whether the table itself holds audio."""
        return any(row.embedded for row in self.rows)


def read_rows(source: Path, columns: Mapping[str, str], *, text_only: bool) -> Table:
    """Read and check a table without its audio.

    Args:
        source: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        columns: names in the table of columns of :data:`COLUMNS`, if they differ.
        text_only: ignore the audio column.

    Raises:
        UsageError: ``columns`` names a column that does not exist, or the file has another extension.
        DataError: the table is unreadable, or a row is invalid.
    """
    for name in columns:
        if name not in COLUMNS:
            raise UsageError(f"--column: {name!r} is no column of the dataset form; it has {', '.join(COLUMNS)}.")
    if not source.is_file():
        raise DataError(f"{source} is missing or no file: a table (.csv, .tsv, .jsonl or .parquet) is expected there.")
    kind = source.suffix.lower()
    if kind not in {*_DELIMITERS, *_JSON_LINES, *_PARQUET}:
        raise UsageError(f"{source} is none of the tables that are read: .csv, .tsv, .jsonl or .parquet.")
    present, values = _values(source, kind)
    names = {name: columns.get(name, name) for name in COLUMNS}
    for name, own in columns.items():
        if own not in present:
            raise UsageError(
                f"--column: {source} has no column {own!r} for {name}; it has {', '.join(present) or 'none'}."
            )
    used = frozenset(name for name, own in names.items() if own in present) - ({"audio"} if text_only else set())
    for name in ("dialogue_id", "label"):
        if name not in used:
            raise DataError(
                f"{source} has no column {name!r} (it has {', '.join(present) or 'none'}): say which one it is with --column {name}=NAME."
            )
    if not used & {"text", "audio"}:
        raise DataError(f"{source} has neither a column 'text' nor 'audio': every utterance needs text or audio.")
    wanted = [names[name] for name in COLUMNS if name in used]
    rows = [_row(where, {name: row.get(names[name]) for name in used}) for where, row in values(wanted)]
    if not rows:
        raise DataError(f"{source} holds no rows: name a table with a row for each utterance.")
    return Table(rows, used, names)


def read_embedded(source: Path, table: Table) -> Iterator[bytes | None]:
    """The audio embedded in a parquet table, row by row; at most one row group is in memory."""
    column = table.names["audio"]
    with _parquet(source) as file:
        for batch in _batches(file, source, [column]):
            for value in batch.column(0):
                content = value.as_py()
                yield (content.get("bytes") if isinstance(content, dict) else content) or None


_Values = Callable[[Sequence[str]], Iterator[tuple[str, Mapping[str, Any]]]]


def _values(source: Path, kind: str) -> tuple[list[str], _Values]:
    """The column names of a table, and a function that yields the location and the given columns of each row."""
    if kind in _PARQUET:
        with _parquet(source) as file:
            return list(file.schema_arrow.names), lambda wanted: _parquet_values(source, wanted)
    if kind in _JSON_LINES:
        names: dict[str, None] = {}
        for _, row in _json_values(source):
            names.update(dict.fromkeys(row))
        return list(names), lambda wanted: _json_values(source)
    delimiter = _DELIMITERS[kind]
    _, header = next(read_delimited(source, delimiter, errors="strict"), (0, []))
    return [name.strip() for name in header], lambda wanted: (
        (f"{source}, line {line}", row) for line, row in read_table(source, wanted, delimiter, errors="strict")
    )


def _json_values(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(read_lines(source, errors="strict"), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            row = load_json(line)
        except ParseError as error:
            raise DataError(
                f"{where}: not readable as JSON ({str(error)[:100]}); one object a line is expected."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON object with the columns as keys is expected, not {type(row).__name__}.")
        yield where, row


@contextmanager
def _parquet(source: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa

    try:
        with open_parquet(source) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"{source} is not readable parquet ({reason[:200]}).") from error


def _batches(file: pq.ParquetFile, source: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    return (batch for _, batch in row_batches(file, source, columns, _ROWS_PER_BATCH))


def _parquet_values(source: Path, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows without audio: embedded bytes are replaced by whether they are present."""
    import pyarrow as pa

    number = 0
    with _parquet(source) as file:
        for name in wanted:
            if file.schema_arrow.names.count(name) > 1:
                raise DataError(f"{source} names the column {name!r} twice.")
        for batch in _batches(file, source, wanted):
            columns = {}
            for name in wanted:
                array = batch.column(name)
                if pa.types.is_struct(array.type) and "bytes" in array.type.names:
                    columns[name] = _without_bytes(array)
                elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
                    columns[name] = [{"embedded": valid} for valid in array.is_valid().to_pylist()]
                else:
                    columns[name] = array.to_pylist()
            for index in range(batch.num_rows):
                number += 1
                yield f"{source}, row {number}", {name: values[index] for name, values in columns.items()}


def _without_bytes(array: Any) -> list[dict[str, Any] | None]:
    """A Hugging Face audio struct as ``{embedded, path}``."""
    import pyarrow.compute as pc

    embedded = pc.struct_field(array, "bytes").is_valid().to_pylist()
    paths = pc.struct_field(array, "path").to_pylist() if "path" in array.type.names else [None] * len(array)
    return [{"embedded": valid, "path": path} for valid, path in zip(embedded, paths, strict=True)]


def _row(where: str, values: Mapping[str, Any]) -> Row:
    dialogue, label = _name(values["dialogue_id"], "dialogue_id", where), _name(values["label"], "label", where)
    if dialogue is None:
        raise DataError(f"{where}: there is no dialogue_id; every utterance belongs to a dialogue.")
    if label is None:
        raise DataError(f"{where}: there is no label; every utterance needs one.")
    audio = values.get("audio")
    embedded = isinstance(audio, dict) and bool(audio.get("embedded"))
    if isinstance(audio, dict):
        audio = None if embedded else audio.get("path")
    return Row(
        where=where,
        dialogue=dialogue,
        turn=_turn(values["turn"], where) if "turn" in values else None,
        text=_text(values.get("text"), "text", where),
        label=label,
        speaker=_name(values.get("speaker"), "speaker", where),
        split=_split(values["split"], where) if "split" in values else None,
        audio=_text(audio, "audio", where),
        embedded=embedded,
    )


def _text(value: object, column: str, where: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} is {type(value).__name__}, not text.")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{where}: {column} holds characters that are no text (NUL, or half of a surrogate pair).")
    return value if value.strip() else None


def _name(value: object, column: str, where: str) -> str | None:
    """Text, or a whole number as text; also a float such as 3.0, which columns with gaps hold."""
    if isinstance(value, float):
        if value != value:
            return None
        value = int(value) if value.is_integer() else value
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**18:
            raise DataError(f"{where}: {column} is a number of more than 18 digits; a name is expected.")
        return str(value)
    text = _text(value, column, where)
    return text and text.strip()


def _turn(value: object, where: str) -> int:
    text = value.strip() if isinstance(value, str) else value
    try:
        number = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not number.is_integer() or abs(number) > 2**53:
        raise DataError(f"{where}: the turn is {str(value)[:40]!r}, not a whole number.")
    return int(number)


def _split(value: object, where: str) -> Split:
    split = _SPLIT_NAMES.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise DataError(f"{where}: the split is {str(value)[:40]!r}; train, dev (or validation) and test are known.")
    return split
