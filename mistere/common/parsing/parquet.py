"""Parquet from outside, with limits that are checked before a page is decompressed.

The footer only states sizes; a page's own header decides how much memory its decompression takes, and a dictionary how much
each row takes. 40 kB can hold gigabytes in both ways. The headers are therefore read first, without the pages, and reading
counts what the rows take in memory. See the format's thrift definition:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mistere.common.counting import plural
from mistere.common.parsing.documents import ParseError, first_line
from mistere.common.parsing.thrift import CompactReader

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

AFFECTS_RESULTS = False
"""A file is read as pyarrow does, or refused."""

MAX_COLUMNS: Final = 1000
MAX_DEPTH: Final = 20
"""Groups inside each other."""
MAX_PAGE_BYTES: Final = 64 * 2**20
"""A page after decompression, unless it is compressed by less than :data:`MAX_RATIO`, as recordings are."""
MAX_RATIO: Final = 100
MIN_ROWS: Final = 100_000
ROWS_PER_BYTE: Final = 16
"""A file may hold :data:`MIN_ROWS` rows, and this many for each of its bytes."""
MAX_DECODED_BYTES: Final = 2**29
"""What all rows take in memory one after the other, or :data:`MAX_RATIO` times the file's size if that is more."""
BATCH_BYTES: Final = 64 * 2**20
"""What the rows of one batch may take if each holds the longest value that a page can hold."""
_FOOTER_BYTES: Final = 64 * 2**20
_NUMBER_BYTES: Final = 8
_UNCOMPRESSED, _COMPRESSED, _VALUES = 2, 3, 1
"""Fields of a page's header, and of the header of a data page in it."""
_ENCODINGS: Final = {5: 2, 8: 4}
"""Fields of the headers of data pages (both versions), and the field of the encoding in them."""
_STORED_ONCE: Final = frozenset({0, 6})
"""Encodings that store each value by itself (plain, and lengths apart); others repeat values, or parts of them."""


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a parquet file and check what its pages would take in memory.

    Raises:
        ParseError: it is not parquet, or exceeds a limit.
        OSError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_schema(path)
    try:
        file = pq.ParquetFile(path, thrift_string_size_limit=_FOOTER_BYTES, thrift_container_size_limit=1_000_000)
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        raise ParseError(first_line(error)) from error
    with file:
        _check_pages(path, file.metadata)
        yield file


def row_batches(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None, rows: int, groups: Sequence[int] | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The record batches of a file, with the number of their row group; one batch is in memory.

    An iterator over several row groups keeps all that it has read, so each row group gets its own.

    Args:
        file: a file of :func:`open_parquet`.
        path: its path.
        columns: the columns to read; None reads all.
        rows: most rows of a batch. A batch has fewer if the file's pages can hold long values.
        groups: the row groups to read; None reads all.

    Raises:
        ParseError: the rows take more memory than the file's size allows, or a page is damaged.
    """
    import pyarrow as pa

    left = limit = _decoded_limit(path.stat().st_size)
    for group in range(file.num_row_groups) if groups is None else groups:
        row, lists = _longest_row(path, file.metadata, group, columns)
        if lists > limit:
            raise ParseError("its lists may take more memory than a file of its size may")
        size = min(rows, max(1, BATCH_BYTES // max(1, row)))
        try:
            for batch in file.iter_batches(batch_size=size, columns=columns and list(columns), row_groups=[group]):
                batch.validate(full=True)  # text that is no UTF-8 would fail where it is used
                left -= sum(_decoded_bytes(column) for column in batch.columns)
                if left < 0:
                    raise ParseError("its rows take more memory than a file of its size may")
                yield group, batch
        except (pa.ArrowException, OverflowError, UnicodeDecodeError, OSError) as error:
            if getattr(error, "errno", None):  # of the disk; arrow's own have no number
                raise
            raise ParseError(first_line(error)) from error


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole file.

    Raises:
        ParseError: it is not parquet, lacks a column, or exceeds a limit.
        OSError: it cannot be read.
    """
    import pyarrow as pa

    with open_parquet(path) as file:
        schema = file.schema_arrow
        for name in columns or ():
            if schema.names.count(name) != 1:
                raise ParseError(f"it has {schema.names.count(name)} columns {name!r}, not one")
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        table = pa.Table.from_batches([batch for _, batch in row_batches(file, path, columns, 65_536)], schema)
        return table.replace_schema_metadata(file.schema_arrow.metadata)


def _decoded_limit(size: int) -> int:
    """Bytes that the pages, or the rows, of a file of ``size`` bytes may take."""
    return max(MAX_DECODED_BYTES, MAX_RATIO * size)


def _decoded_bytes(column: Any) -> int:
    """What an array takes when its values are Python objects; a dictionary's values are shared only until then."""
    import pyarrow as pa

    if pa.types.is_struct(column.type):
        return sum(_decoded_bytes(field) for field in column.flatten())
    decoded = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return int(decoded.nbytes)


def _longest_row(path: Path, metadata: Any, group: int, columns: Sequence[str] | None) -> tuple[int, int]:
    """Upper bounds of the bytes that one row of a row group may take: outside of lists, and all lists of the group together.

    No value is longer than a page, whatever its encoding (a dictionary, or prefixes of the value before). The pages' own
    headers are used, because the footer may state anything. A list may hold all values of its column.
    """
    row = lists = 0
    chunks = metadata.row_group(group)
    with _mapped(path) as data:
        for index in range(chunks.num_columns):
            chunk, leaf = chunks.column(index), metadata.schema.column(index)
            if columns is not None and not any(f"{leaf.path}.".startswith(f"{name}.") for name in columns):
                continue
            pages = list(_pages(data, chunk))
            longest = max((page.plain for page in pages), default=0)
            width = longest if leaf.physical_type == "BYTE_ARRAY" else max(_NUMBER_BYTES, leaf.length)
            if leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY":
                lists += sum(page.plain if page.stored_once else width * page.values for page in pages)
            elif leaf.max_repetition_level:
                lists += width * sum(page.values for page in pages)
            else:
                row += width
    return row, lists


def _check_schema(path: Path) -> None:
    """Check the depth of the schema in the footer, which pyarrow would follow by recursion."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if len(tail) < 8 or tail[4:] != b"PAR1":
            raise ParseError("it does not end like a parquet file")
        if length > min(size - 8, _FOOTER_BYTES):
            raise ParseError("its footer is longer than the file, or than 64 MiB")
        file.seek(size - 8 - length)
        footer = file.read(length)
    left: list[int] = []  # children that each open group still lacks
    for number, element in enumerate(CompactReader(footer).list_of_structs(2)):
        children = element.integers.get(5, 0)
        if number > MAX_COLUMNS * 4 or len(left) > MAX_DEPTH:
            raise ParseError(
                f"it has more than {MAX_COLUMNS} columns, or more than {MAX_DEPTH} groups inside each other"
            )
        while left and not left[-1]:
            left.pop()
        if left:
            left[-1] -= 1
        if children:
            left.append(children)


def _check_pages(path: Path, metadata: Any) -> None:
    size = path.stat().st_size
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    limit = max(MIN_ROWS, ROWS_PER_BYTE * size)
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    if sum(column.total_compressed_size for column in columns if column.num_values) > size:
        raise ParseError("its columns overlap")  # each would have the same pages read again
    counted = sum(group.num_rows for group in groups)
    if metadata.num_rows != counted or any(group.num_rows < 0 for group in groups):
        raise ParseError(
            f"its footer states {metadata.num_rows} {plural(metadata.num_rows, 'row')}, and its row groups {counted}"
        )
    if counted > limit:
        raise ParseError(f"it states {counted} {plural(counted, 'row')}; a file of {size} bytes may hold {limit}")
    if metadata.num_columns > MAX_COLUMNS:
        raise ParseError(f"it has {metadata.num_columns} columns; {MAX_COLUMNS} are read")
    if not groups:
        return
    with _mapped(path) as data:
        total = sum(page.plain for column in columns for page in _pages(data, column))
    if total > _decoded_limit(size):
        raise ParseError(f"its pages decompress to {total} bytes, more than a file of {size} bytes may")


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


class _Page(NamedTuple):
    """A page by its header: size after decompression, number of values (0 for a dictionary), and whether no value is repeated."""

    plain: int
    values: int
    stored_once: bool


def _pages(data: mmap.mmap, chunk: Any) -> Iterator[_Page]:
    """The pages of a column chunk."""
    if not chunk.num_values:
        return  # pyarrow writes no pages, and offsets that mean nothing
    first = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    start = min(first, chunk.data_page_offset) if first else chunk.data_page_offset
    stop = start + chunk.total_compressed_size
    if not 0 <= start <= stop <= len(data):
        raise ParseError("a column lies outside of the file")
    while start < stop:
        reader = CompactReader(data, start)
        header = reader.struct()
        plain, packed = header.integers.get(_UNCOMPRESSED, -1), header.integers.get(_COMPRESSED, -1)
        headers = [
            (header.structs[kind].integers, field) for kind, field in _ENCODINGS.items() if kind in header.structs
        ]
        values = sum(integers.get(_VALUES, -1) for integers, _ in headers)
        start = reader.position + packed
        if min(plain, packed, values) < 0 or start > stop:
            raise ParseError("the header of a page is damaged")
        if plain > max(MAX_PAGE_BYTES, MAX_RATIO * packed):
            raise ParseError(f"a page of {packed} bytes decompresses to {plain}; {MAX_PAGE_BYTES} are read")
        yield _Page(plain, values, all(integers.get(field, -1) in _STORED_ONCE for integers, field in headers))
