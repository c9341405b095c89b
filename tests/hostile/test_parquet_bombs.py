"""Parquet files of some kilobytes that would take gigabytes or minutes are refused before they are decompressed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.pull_data import run as pull_data
from components.validate_data.facts.shard_facts import facts_of_shard
from mistere.common.errors import ArtifactError, DataError, MistereError, UsageError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import (
    BATCH_BYTES,
    MAX_COLUMNS,
    MAX_PAGE_BYTES,
    MIN_ROWS,
    _check_pages,
    _decoded_bytes,
    open_parquet,
    read_parquet,
    row_batches,
)
from mistere.common.parsing.thrift import CompactReader
from mistere.corpora.tables.rows import read_rows
from mistere.data.dataset import read_batches
from mistere.metrics.predictions import read_predictions
from mistere.model.embeddings import EmbeddedDialogues
from pipelines.cli.experiments.imported_embeddings import open_embeddings

ROWS = 600
"""Rows of a text of 1 MiB that the dictionary holds once."""


def _columns(rows: int, text: pa.Array) -> dict[str, pa.Array]:
    same = pa.array(["a"] * rows)
    number = pa.array(np.arange(rows), pa.int32())
    return {"split": same, "dialogue_id": same, "turn": number, "label": same, "text": text, "probabilities": text}


def long_page(path: Path) -> None:
    text = pa.array(["x" * (MAX_PAGE_BYTES + 1)])
    pq.write_table(pa.table(_columns(1, text)), path, compression="zstd", use_dictionary=False, write_statistics=False)


def repeated_text(path: Path) -> None:
    """A dictionary of one text for all rows; the file says that the column is a dictionary, as pyarrow writes it."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ROWS, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table(_columns(ROWS, text)), path, compression="zstd")


def repeated_plain_text(path: Path) -> None:
    """The same without the note that the column was a dictionary."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ROWS, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table(_columns(ROWS, text)), path, compression="zstd", store_schema=False)


def list_of_repeated_text(path: Path) -> None:
    """One row with a list of 20,000 texts of 64 KiB; the dictionary holds one."""
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 2**16]))
    lists = pa.ListArray.from_arrays(pa.array([0, 20_000], pa.int32()), text)
    pq.write_table(pa.table(_columns(1, lists)), path, compression="zstd", store_schema=False)


def many_rows(path: Path) -> None:
    rows = MIN_ROWS + 1
    same = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a"]))
    names = ("split", "dialogue_id", "turn", "label", "text", "probabilities")
    pq.write_table(pa.table(dict.fromkeys(names, same)), path, compression="zstd", store_schema=False)


def deep_groups(path: Path) -> None:
    text: pa.Array = pa.array(["x"])
    for _ in range(50):
        text = pa.StructArray.from_arrays([text], ["a"])
    pq.write_table(pa.table(_columns(1, text)), path, store_schema=False)


def many_columns(path: Path) -> None:
    columns = _columns(1, pa.array(["x"])) | {f"c{index}": pa.array([1]) for index in range(MAX_COLUMNS)}
    pq.write_table(pa.table(columns), path, store_schema=False)


def foreign(path: Path) -> None:
    path.write_bytes(b"PAR1" + b"\xff" * 100 + (100).to_bytes(4, "little") + b"PAR1")


def long_footer(path: Path) -> None:
    path.write_bytes(b"PAR1" + (2**31 - 1).to_bytes(4, "little") + b"PAR1")


PARQUET_BOMBS: dict[str, Callable[[Path], None]] = {
    "page of more than 64 MiB in a few kB": long_page,
    "0.6 GiB of text in a dictionary": repeated_text,
    "0.6 GiB of text in a dictionary, as plain text": repeated_plain_text,
    "1.2 GiB of text in a list": list_of_repeated_text,
    "100,001 rows in a few kB": many_rows,
    "50 groups inside each other": deep_groups,
    "more than 1,000 columns": many_columns,
    "footer of another format": foreign,
    "footer longer than the file": long_footer,
}
"""Hostile files by what is hostile in them."""
READS_ALL = {
    "0.6 GiB of text in a dictionary",
    "0.6 GiB of text in a dictionary, as plain text",
    "1.2 GiB of text in a list",
}
"""Files that only hurt those who read the column."""


def shards_of_a_dataset(path: Path) -> None:
    for batch in read_batches([path]):
        batch.to_pylist()


def description(path: Path) -> None:
    pull_data._facts(path.name, path, IMPLICIT_KINDS)


def validation(path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        facts_of_shard(path, "en", -60.0, pool)


def imported_table(path: Path) -> None:
    read_rows(path, {}, text_only=True)


def imported_embeddings(path: Path) -> None:
    path.rename(path.with_name("utterances.parquet"))
    np.save(path.with_name("text.npy"), np.zeros((1, 2), np.float32))
    open_embeddings(path.parent)


def embeddings(path: Path) -> None:
    EmbeddedDialogues.read_files(path, {}, ["a"])


def predictions(path: Path) -> None:
    read_predictions(path)


PARQUET_ENTRANCES: dict[str, tuple[Callable[[Path], None], type[MistereError], bool]] = {
    "dataset's shard": (shards_of_a_dataset, DataError, True),
    "dataset's shard, `pull_data`": (description, DataError, False),
    "dataset's shard, validation": (validation, DataError, False),
    "table, `mistere data import`": (imported_table, DataError, True),
    "`mistere train --embeddings`": (imported_embeddings, UsageError, False),
    "embeddings": (embeddings, ArtifactError, False),
    "predictions": (predictions, ArtifactError, True),
}
"""Every reader of parquet, its error, and whether it reads the text."""


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bombs")
    paths = {kind: folder / f"{number}.parquet" for number, kind in enumerate(PARQUET_BOMBS)}
    for kind, write in PARQUET_BOMBS.items():
        write(paths[kind])
        assert paths[kind].stat().st_size < 300_000, kind
    return paths


POOLS: list[Any] = []
"""Pools that stay until the end: arrow crashes where a buffer outlives its proxy pool, and exceptions keep buffers in cycles."""


@pytest.fixture
def memory() -> Iterator[Any]:
    """Counts what arrow allocates."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    yield pool
    pa.set_memory_pool(before)


@pytest.mark.parametrize("entrance", PARQUET_ENTRANCES)
def test_readers_refuse_bombs(entrance: str, bombs: dict[str, Path], tmp_path: Path, memory: Any) -> None:
    _refuse(entrance, {kind: path for kind, path in bombs.items() if kind not in READS_ALL}, tmp_path)
    assert memory.max_memory() < 100 * 2**20


@pytest.mark.long
@pytest.mark.parametrize("entrance", [name for name, (_, _, all_columns) in PARQUET_ENTRANCES.items() if all_columns])
def test_readers_count_what_rows_take(entrance: str, bombs: dict[str, Path], tmp_path: Path, memory: Any) -> None:
    _refuse(entrance, {kind: bombs[kind] for kind in READS_ALL}, tmp_path)
    assert memory.max_memory() < 700 * 2**20


def _refuse(entrance: str, files: dict[str, Path], folder: Path) -> None:
    read, expected, _ = PARQUET_ENTRANCES[entrance]
    for kind, source in files.items():
        path = folder / source.stem / "train-00000.parquet"
        path.parent.mkdir()
        path.symlink_to(source)
        with pytest.raises(expected) as refused:
            read(path)
        message = str(refused.value)
        assert "\n" not in message and len(message) < 700, f"{entrance}, {kind}: {message}"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (pa.string(), {"use_dictionary": True}),
        (pa.string(), {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}),
        (pa.binary(2**20), {"use_dictionary": True}),
    ],
)
def test_a_batch_has_few_rows_of_long_values(kind: pa.DataType, options: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the encoding, 80 equal values of 1 MiB take some kB in the file."""
    path = tmp_path / "text.parquet"
    text = pa.array([b"x" * 2**20] * 80, pa.binary()).cast(kind)
    pq.write_table(pa.table({"text": text}), path, compression="zstd", store_schema=False, **options)
    assert path.stat().st_size < 10_000
    with open_parquet(path) as file:
        rows = [len(batch) for _, batch in row_batches(file, path, None, 65_536)]
    assert sum(rows) == 80 and max(rows) << 20 <= BATCH_BYTES


def test_a_dictionary_in_a_struct_counts_as_its_values() -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int32()), pa.array(["x" * 2**10]))
    assert _decoded_bytes(pa.StructArray.from_arrays([text], ["bytes"])) >= 50 * 2**10


def test_fields_of_another_type_hide_no_size() -> None:
    """Readers skip an i64 where the format declares an i32, so it must not replace the number before."""
    header = CompactReader(bytes([0x15, 0xC8, 0x01, 0x06, 0x02, 0x02, 0]))
    assert header.struct().integers == {1: 100}


def test_ordinary_files_are_read_as_pyarrow_does(tmp_path: Path) -> None:
    recordings = [np.random.default_rng(seed).bytes(70_000) for seed in range(40)]
    table = pa.table({"audio": recordings, "text": ["a", None, "b", "a"] * 10, "n": list(range(40))})
    for number, options in enumerate(
        [
            {"compression": "zstd", "row_group_size": 7},
            {"compression": "none", "data_page_version": "2.0"},
            {"compression": "snappy", "use_dictionary": False, "data_page_size": 100},
            {"compression": "gzip", "write_page_index": True, "use_byte_stream_split": False, "column_encoding": None},
        ]
    ):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table, path, **options)
        assert read_parquet(path).equals(pq.read_table(path)), options
        assert read_parquet(path, ["n"]).column_names == ["n"]
    pq.write_table(table.slice(0, 0), path)
    assert read_parquet(path).num_rows == 0


def test_lists_of_images_are_read_and_repeated_ones_are_not(tmp_path: Path) -> None:
    """Values that are stored once take no more than their pages; those of a dictionary may stand anywhere."""
    images = [[bytes([row, index]) * 50_000 for index in range(4)] for row in range(100)]
    table = pa.table({"face": pa.array(images, pa.list_(pa.binary()))})
    for version in ("1.0", "2.0"):
        pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, data_page_version=version)
        assert read_parquet(tmp_path / "a.parquet").equals(table)
    pq.write_table(
        table, tmp_path / "b.parquet", column_encoding={"face.list.element": "DELTA_BYTE_ARRAY"}, use_dictionary=False
    )
    with pytest.raises(ParseError, match="lists may take more memory"):
        read_parquet(tmp_path / "b.parquet")


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    """Each byte of a small file is changed in turn: no other exception, and no crash of the process."""
    path = tmp_path / "small.parquet"
    pq.write_table(pa.table({"text": ["hello", "world"] * 5, "n": list(range(10))}), path, compression="zstd")
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :])
        try:
            read_parquet(path)
        except ParseError as error:
            assert "\n" not in str(error)


def test_a_list_without_the_elements_that_it_states_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    size = b"\x80" * 8 + b"\x40"  # 2**62 as a varint
    footer = b"\x19\xf7" + size + b"\0"  # field 1: a list of doubles, of which each takes eight bytes
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ParseError, match="cut off"):
        read_parquet(path)


def test_columns_that_share_their_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shared.parquet"
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(1000)}), path)
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
    footer = SimpleNamespace(num_row_groups=3, num_rows=3000, num_columns=1, row_group=lambda _: group)
    with pytest.raises(ParseError, match="overlap"):
        _check_pages(path, footer)
