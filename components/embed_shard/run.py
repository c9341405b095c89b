"""``embed_shard``: compute the vectors of a share of the utterances as a stream.

The dataset is split into windows of rows that do not depend on the number of shards, and each shard takes consecutive windows,
so four shards together give the same bytes as one. Vectors that another run computed with the same encoder come from the
cache (:mod:`mistere.model.embedding_windows`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingShard, EncoderCheckpoint, UtteranceSet
from mistere.common.counting import counted, plural
from mistere.common.modalities import Modality
from mistere.common.os_errors import reserve_blocks
from mistere.config.base import Section
from mistere.config.encoder import Device, ExtractionSettings
from mistere.engine.stage import Result, Stage, Step, TaskShard
from mistere.model.embeddings import UTTERANCES_FILE

if TYPE_CHECKING:
    from mistere.data.dataset import Utterance
    from mistere.data.kinds.kind import UnreadableError
    from mistere.data.utterances import RowRange
    from mistere.model.embedding_windows import WindowItem
    from mistere.model.encoders.embedding import Embedder


class ShardConfig(Section):
    """The part of a modality's section that is about computing vectors; the encoder brings the rest."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    extraction: ExtractionSettings = ExtractionSettings()
    undecodable: Literal["fail", "missing"] = "fail"
    device: Device = "auto"

    def keyed(self) -> dict[str, Any]:
        """The settings that change the vectors."""
        return {**self.model_dump(mode="json"), "extraction": self.extraction.keyed()}


STAGE = Stage(
    name="embed_shard",
    config=ShardConfig,
    inputs={"utterances": UtteranceSet, "encoder": EncoderCheckpoint},
    sharded=True,
    outputs={"vectors": EmbeddingShard},
)


def run(
    config: ShardConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    encoder: ArtifactHandle[EncoderCheckpoint],
    vectors: Path,
    modality: Modality,
    shard: TaskShard,
) -> Result:
    """Embed a share of the utterances, or mark the modality as absent.

    Args:
        config: how vectors are computed.
        step: this execution.
        utterances: the dataset.
        encoder: the fine-tuned encoder.
        vectors: folder of the output artifact.
        modality: the encoder's modality.
        shard: which share.

    Raises:
        DataError: an utterance's audio, image or vector does not decode and ``undecodable`` is ``fail``.
    """
    if encoder.manifest.absent:
        return Result(manifests={"vectors": EmbeddingShard(modality=modality, absent=True)})
    with step.loading():
        import pandas  # noqa: F401  (pyarrow imports it with the first scalar)
        import pyarrow.parquet  # noqa: F401
        import transformers.modeling_utils  # noqa: F401  (families import it when they load)

        from mistere.model.embedders import open_embedder
        from mistere.model.vector_cache import vectors_identity

    made = encoder.manifest
    embedder = open_embedder(
        step.store,
        modality,
        made.encoder,
        encoder.file("tuned.safetensors"),
        len(made.labels),
        config.extraction,
        config.device,
        step.progress.note,
    )
    identity = vectors_identity(made.encoder.identity.digest, embedder)
    work = _Extraction(embedder, config, step, utterances.manifest, shard, identity)
    rows = work.write(vectors)
    return Result(
        manifests={
            "vectors": EmbeddingShard(
                modality=modality,
                dimension=embedder.dimension,
                labels=made.labels,
                rows=rows,
                missing=work.missing,
                undecodable=len(work.undecodable),
                encoder=made.encoder.identity.model_copy(
                    update={"precision": str(embedder.precision).removeprefix("torch.")}
                ),
            )
        }
    )


class _Extraction:
    """Computes the vectors of one shard."""

    def __init__(
        self,
        embedder: Embedder,
        config: ShardConfig,
        step: Step,
        reference: UtteranceSet,
        shard: TaskShard,
        identity: str,
    ) -> None:
        from mistere.data.dataset import Utterance
        from mistere.data.utterances import PreviousTurns, UtteranceReader, row_ranges
        from mistere.model.embedding_windows import WindowEmbedder
        from mistere.model.vector_cache import VectorCache

        ranges = row_ranges(reference, embedder.kind.rows_per_window)
        self._ranges = share_of(ranges, shard)
        self._embedder, self._config, self._progress = embedder, config, step.progress
        turns = embedder.settings.context_turns
        files = {part.shard for part in self._ranges}
        if turns and self._ranges:  # the first dialogue may start in the previous file
            names = list(dict.fromkeys(part.shard for part in ranges))
            files.add(names[max(0, names.index(self._ranges[0].shard) - 1)])
        splits = list(dict.fromkeys(part.split for part in self._ranges))
        self._reader = UtteranceReader(reference, splits, frozenset(files), step.store)
        self._previous = PreviousTurns(self._reader, turns, splits)
        cache = VectorCache.open(config.extraction.cache, step.store, identity, step.progress)
        self._windows = WindowEmbedder[Utterance](embedder, cache, self._unreadable)
        self.missing = 0
        self.undecodable: list[str] = []

    def write(self, folder: Path) -> dict[str, int]:
        """Write ``utterances.parquet`` and ``<modality>.npy``; returns the number of rows per split."""
        import numpy as np

        rows = self._write_rows(folder)
        total = sum(rows.values())
        matrix = np.lib.format.open_memmap(
            folder / f"{self._embedder.modality}.npy",
            mode="w+",
            dtype=np.float32,
            shape=(total, self._embedder.dimension),
        )
        reserve_blocks(folder / f"{self._embedder.modality}.npy")
        done = reused = 0
        for window in self._windows.embed(map(self._items, self._ranges)):
            end = done + len(window.vectors)
            matrix[done:end] = window.vectors
            self.undecodable += window.undecodable
            self.missing += int(np.isnan(window.vectors[:, 0]).sum())
            reused += window.reused
            done = end
            self._progress("utterances", done, total)
        matrix.flush()
        if reused:
            self._progress.note(f"{reused} of {total} {self._embedder.modality} vectors came from the cache.")
        if self.undecodable:
            self._progress.note(
                f"{counted(len(self.undecodable), 'utterance')} whose {self._embedder.kind.name} does not decode {plural(len(self.undecodable), 'is', 'are')} "
                "treated as missing, first "
                f"{self.undecodable[0]}"
            )
        return rows

    def _items(self, part: RowRange) -> list[WindowItem[Utterance]]:
        return [
            self._windows.item(utterance, self._previous.of(part.split, utterance), part.split)
            for utterance in self._reader.read(part, (self._embedder.modality,))
        ]

    def _write_rows(self, folder: Path) -> dict[str, int]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        counts: dict[str, int] = {}
        tables = []
        for part in self._ranges:
            table = self._reader.table(part)
            counts[part.split] = counts.get(part.split, 0) + len(table)
            tables.append(table)
        if not tables:
            names = {"split": pa.string(), "dialogue_id": pa.string(), "turn": pa.int64(), "label": pa.string()}
            tables.append(pa.schema(names).empty_table())
        rows = pa.concat_tables(tables)
        pq.write_table(rows, folder / UTTERANCES_FILE, compression="zstd")
        return counts

    def _unreadable(self, item: WindowItem[Utterance], error: UnreadableError) -> str:
        from mistere.common.errors import DataError
        from mistere.data.utterances import undecodable

        message = undecodable(item.split, item.utterance, self._embedder.modality, error)
        if self._config.undecodable == "fail":
            raise DataError(message) from error
        return message


def share_of(ranges: list[RowRange], shard: TaskShard) -> list[RowRange]:
    """The consecutive ranges that a shard works on."""
    start, stop = (len(ranges) * edge // shard.of for edge in (shard.index, shard.index + 1))
    return ranges[start:stop]
