"""The three kinds of tables as files: their columns, their rows without audio, and their audio row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mistere.common.errors import DataError
from mistere.common.parsing.documents import ParseError, load_json
from mistere.common.parsing.parquet import open_parquet, row_batches
from mistere.corpora.delimited import check_header
from mistere.corpora.tables import audio as audio_cells
from mistere.corpora.tables.audio import Mark
from mistere.corpora.text_files import read_lines

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS_PER_BATCH = 128
_HUGGING_FACE = b"huggingface"
"""Key of the schema's metadata in which ``datasets`` stores the features, with the names of the classes."""


class TableSource(Protocol):
    """A table as a file.

    Attributes:
        columns: the columns' names in order.
        notes: peculiarities of the file in sentences; complete once the rows are read.
    """

    columns: list[str]
    notes: list[str]

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The location and the wanted columns of each row.

        Raises:
            DataError: the file is unreadable, or a wanted column is missing or duplicate.
        """
        ...


class JsonLines:
    """A file with a JSON object on each line."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self.notes: list[str] = []
        names: dict[str, None] = {}
        for _, row in self._objects():
            names.update(dict.fromkeys(row))
        self.columns = list(names)

    def rows(self, wanted: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See :class:`TableSource`."""
        check_header(self._source, self.columns, wanted)
        return self._objects()

    def audio(self, column: str) -> Iterator[tuple[str, Any]]:
        """The location and the audio cell of each row, as :func:`mistere.corpora.tables.audio.content` takes it."""
        return ((where, row.get(column)) for where, row in self._objects())

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(read_lines(self._source, errors="strict"), start=1):
            if not line.strip():
                continue
            where = f"{self._source}, line {number}"
            try:
                row = load_json(line, unique_keys=True)
            except ParseError as error:
                raise DataError(
                    f"{where}: not readable as JSON ({str(error)[:100]}); one object a line is expected."
                ) from error
            if not isinstance(row, dict):
                raise DataError(
                    f"{where}: a JSON object with the columns as keys is expected, not {type(row).__name__}."
                )
            yield where, row


class Parquet:
    """A parquet file.

    Attributes:
        columns: see :class:`TableSource`.
        notes: see :class:`TableSource`.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self.notes: list[str] = []
        with self._open() as file:
            self._schema = file.schema_arrow
        self.columns: list[str] = list(self._schema.names)

    def class_names(self, column: str) -> list[str]:
        """The names of the classes that ``datasets`` stores for a column of numbers; empty if it stores none."""
        try:
            features = load_json((self._schema.metadata or {})[_HUGGING_FACE])["info"]["features"]
            names = features[column]["names"]
        except (LookupError, ParseError, TypeError):
            return []
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return names if known and features[column].get("_type") == "ClassLabel" else []

    def rows(self, wanted: Sequence[str], audio: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See :class:`TableSource`; recordings in the column ``audio`` are replaced by a mark."""
        check_header(self._source, self.columns, wanted)
        number = 0
        for batch in self._batches(wanted):
            where = [f"{self._source}, row {number + index}" for index in range(1, batch.num_rows + 1)]
            columns = {
                name: _marks(_decoded(batch.column(name)), where)
                if name == audio
                else _decoded(batch.column(name)).to_pylist()
                for name in wanted
            }
            number += batch.num_rows
            for index, position in enumerate(where):
                yield position, {name: values[index] for name, values in columns.items()}

    def audio(self, column: str) -> Iterator[tuple[str, Any]]:
        """The location and the audio cell of each row; at most one batch of rows is in memory."""
        number = 0
        for batch in self._batches([column]):
            for value in _decoded(batch.column(0)):
                number += 1
                yield f"{self._source}, row {number}", _python(value)

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            yield from (batch for _, batch in row_batches(file, self._source, columns, _ROWS_PER_BATCH))

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        import pyarrow as pa

        try:
            with open_parquet(self._source) as file:
                yield file
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise DataError(f"{self._source} is not readable parquet ({reason[:200]}).") from error


def _decoded(array: Any) -> Any:
    """The values of a dictionary or an extension type."""
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        array = array.storage if not isinstance(array.type, pa.UuidType) else array
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _marks(array: Any, where: list[str]) -> list[Any]:
    """What each cell of an audio column holds, without a recording; see :func:`mistere.corpora.tables.audio.mark`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if _is_binary(kind):
        return [Mark(embedded=valid) for valid in array.is_valid().to_pylist()]
    if not pa.types.is_struct(kind):
        return array.to_pylist()  # type: ignore[no-any-return]
    names = tuple(field.name for field in kind)
    audio_cells.check_fields(names, where[0] if where else "")
    held = [False] * len(array)
    for name in audio_cells.CONTENT_FIELDS:
        if names.count(name) == 1:
            valid = pc.struct_field(array, name).is_valid().to_pylist()
            held = [one or other for one, other in zip(held, valid, strict=True)]
    paths = pc.struct_field(array, "path").to_pylist() if names.count("path") == 1 else [None] * len(array)
    return [Mark(embedded, None if embedded else path) for embedded, path in zip(held, paths, strict=True)]


def _python(value: Any) -> Any:
    """A scalar as Python object, with arrays of numbers as NumPy arrays: lists of all samples would take ten times the memory."""
    import pyarrow as pa

    if not value.is_valid:
        return None
    kind = value.type
    if pa.types.is_struct(kind):
        return {field.name: _python(value[field.name]) for field in kind}
    if _is_list(kind) and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)):
        return value.values.to_numpy(zero_copy_only=False)
    if _is_list(kind) and _is_list(kind.value_type):
        return [_python(channel) for channel in value.values]
    return value.as_py()


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)
