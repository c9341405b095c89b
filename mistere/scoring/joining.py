"""Join the tables of calls of an archive's shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.common.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def join_calls(parts: Iterable[Path], schema: pa.Schema, target: Path) -> None:
    """Join the tables of calls in their order; a row group is in memory."""
    import pyarrow.parquet as pq

    partial = target.with_name(f".{target.name}.partial")
    with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
    partial.replace(target)


def require_turns(turns: int, name: str) -> None:
    """Refuse an archive without turns.

    Raises:
        DataError: it has none.
    """
    if not turns:
        raise DataError(f"the dataset {name} holds no turns: there is nothing to score.")
