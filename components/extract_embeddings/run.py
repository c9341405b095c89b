"""``extract_embeddings``: join the shards of one modality's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingSet, EmbeddingShard, UtteranceSet
from mistere.common.counting import counted, plural
from mistere.common.errors import ArtifactError
from mistere.common.modalities import Modality
from mistere.common.os_errors import reserve_blocks
from mistere.config.base import Section
from mistere.engine.stage import Result, Stage, Step
from mistere.model.embeddings import UTTERANCES_FILE

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

STAGE = Stage(
    name="extract_embeddings",
    config=Section,
    inputs={"utterances": UtteranceSet, "shards": EmbeddingShard},
    many=frozenset({"shards"}),
    outputs={"embeddings": EmbeddingSet},
)
_ROWS_AT_ONCE = 4096


def run(
    config: Section,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    shards: Sequence[ArtifactHandle[EmbeddingShard]],
    embeddings: Path,
    modality: Modality,
) -> Result:
    """Join the shards, or mark the modality as absent.

    Args:
        config: empty; everything is in the shards.
        step: this execution.
        utterances: the dataset.
        shards: its parts, in order.
        embeddings: folder of the output artifact.
        modality: the shards' modality.

    Raises:
        ArtifactError: the shards are not those of the dataset.
    """
    first = shards[0].manifest
    if first.absent:
        return Result(manifests={"embeddings": EmbeddingSet(modality=modality, absent=True)})
    rows = {split: sum(shard.manifest.rows.get(split, 0) for shard in shards) for split in utterances.manifest.rows}
    if rows != utterances.manifest.rows or len({shard.manifest.encoder for shard in shards}) > 1:
        raise ArtifactError(
            f"the {modality} shards are not those of the dataset: rows {rows} instead of {utterances.manifest.rows}, "
            "or several encoders; run again."
        )
    _join(shards, modality, embeddings, step)
    undecodable = sum(shard.manifest.undecodable for shard in shards)
    if undecodable:
        step.progress.note(
            f"{counted(undecodable, 'utterance')} whose audio does not decode {plural(undecodable, 'counts', 'count')} as without {modality}."
        )
    return Result(
        manifests={
            "embeddings": EmbeddingSet(
                modality=modality,
                dimension=first.dimension,
                labels=first.labels,
                rows=rows,
                missing=sum(shard.manifest.missing for shard in shards),
                undecodable=undecodable,
                encoder=first.encoder,
            )
        },
        values={"undecodable": str(undecodable)} if undecodable else {},
    )


def _join(shards: Sequence[ArtifactHandle[EmbeddingShard]], modality: str, folder: Path, step: Step) -> None:
    """Write rows and vectors in the order of dialogues and turns, with a few thousand rows in memory."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(shard.file(UTTERANCES_FILE)) for shard in shards])
    order = _dialogue_order(table)
    pq.write_table(table.take(pa.array(order)), folder / UTTERANCES_FILE, compression="zstd")
    target = np.empty_like(order)
    target[order] = np.arange(len(order))
    matrices = [np.load(shard.file(f"{modality}.npy"), mmap_mode="r", allow_pickle=False) for shard in shards]
    joined = np.lib.format.open_memmap(
        folder / f"{modality}.npy", mode="w+", dtype=np.float32, shape=(len(order), matrices[0].shape[1])
    )
    reserve_blocks(folder / f"{modality}.npy")
    done = 0
    for matrix in matrices:
        for start in range(0, len(matrix), _ROWS_AT_ONCE):
            part = matrix[start : start + _ROWS_AT_ONCE]
            joined[target[done : done + len(part)]] = part
            done += len(part)
            step.progress("utterances", done, len(order))
    joined.flush()


def _dialogue_order(table: pa.Table) -> np.ndarray:
    """Order of the rows ``[rows]``: that of the files, with the turns of each dialogue in sequence."""
    import numpy as np

    keys = (
        np.array(table["split"].to_numpy(zero_copy_only=False))
        + "\0"
        + table["dialogue_id"].to_numpy(zero_copy_only=False)
    )
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = keys[1:] != keys[:-1]
    return np.lexsort((table["turn"].to_numpy(), np.cumsum(begins)))
