"""The modalities of a shard, from its parquet footer; no data page is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mistere.common.modalities import IMPLICIT_KINDS
from mistere.data.kinds import kind_of

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData


def shard_modalities(metadata: FileMetaData, kinds: Mapping[str, str] = IMPLICIT_KINDS) -> frozenset[str]:
    """The modalities of which a row group may hold a value: without statistics, one does.

    Args:
        metadata: the footer.
        kinds: the modalities to look for, and their kinds.
    """
    modalities = {kind_of(kind).leaf(modality): modality for modality, kind in kinds.items()}
    present: set[str] = set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            chunk = row_group.column(column)
            modality = modalities.get(_plain(chunk.path_in_schema))
            statistics = chunk.statistics
            # Of a list, each element is a value, and each empty or missing list one null.
            if modality and (
                statistics is None or not statistics.has_null_count or statistics.null_count < chunk.num_values
            ):
                present.add(modality)
    return frozenset(present)


def _plain(path: str) -> str:
    """A path with the name that the parquet format gives to a list's elements; some writers use ``item``."""
    return path.removesuffix(".list.item") + ".list.element" if path.endswith(".list.item") else path
