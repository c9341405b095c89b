"""The modalities of a shard, from its parquet footer; no data page is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistere.data.dataset import MODALITY_COLUMNS

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData


def shard_modalities(metadata: FileMetaData) -> frozenset[str]:
    """The modalities of which a row group may hold a value: without statistics, one does.

    Args:
        metadata: the footer.
    """
    modalities = {column: modality for modality, column in MODALITY_COLUMNS.items()}
    present: set[str] = set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            chunk = row_group.column(column)
            modality = modalities.get(chunk.path_in_schema)
            statistics = chunk.statistics
            if modality and (
                statistics is None or not statistics.has_null_count or statistics.null_count < row_group.num_rows
            ):
                present.add(modality)
    return frozenset(present)
