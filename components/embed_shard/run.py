"""``embed_shard``: compute the vectors of a share of the utterances as a stream.

The dataset is split into windows of rows that do not depend on the number of shards, and each shard takes consecutive windows,
so four shards together give the same bytes as one. Vectors that another run computed with the same encoder come from the
cache, and content that a window holds several times ("Okay.") is embedded once.

On a CPU the vector of a content is the same in every window, so the cache changes no byte. On a GPU it depends on the window
(:mod:`mistere.model.encoders.embedding`), so there the cache is keyed by the window as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingShard, EncoderCheckpoint, UtteranceSet, canonical_digest
from mistere.common.counting import counted, plural
from mistere.common.digests.code import source_digest
from mistere.common.modalities import Modality
from mistere.common.os_errors import reserve_blocks
from mistere.config.base import Section
from mistere.config.encoder import Device, ExtractionSettings
from mistere.engine.stage import Result, Stage, Step, TaskShard
from mistere.model.embeddings import UTTERANCES_FILE

if TYPE_CHECKING:
    import numpy as np

    from mistere.data.dataset import Utterance
    from mistere.data.utterances import RowRange
    from mistere.model.encoders.embedding import Embedder
    from mistere.model.encoders.families.family import Features


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
    identity = canonical_digest(
        [
            made.encoder.identity.digest,
            str(embedder.precision),
            embedder.device.type,
            source_digest("mistere.model.encoders.embedding"),
        ]
    )
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
        from components.embed_shard.vector_cache import VectorCache
        from mistere.data.utterances import PreviousTurns, UtteranceReader, row_ranges

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
        self._cache = VectorCache.open(config.extraction.cache, step.store, identity, step.progress)
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
        pending: list[_Window] = []

        def windows() -> Iterator[list[_Item]]:
            for part in self._ranges:
                window = self._window(part)
                pending.append(window)
                yield window.distinct

        for computed in self._embedder.embed_windows(windows(), self._prepare):
            window = pending.pop(0)
            end = done + window.size
            matrix[done:end] = window.filled(computed, self._embedder.dimension)
            if self._cache is not None:
                self._keep(window, computed)
            self.undecodable += window.undecodable()
            self.missing += int(np.isnan(matrix[done:end, 0]).sum()) if window.size else 0
            reused += len(window.hits)
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

    def _window(self, part: RowRange) -> _Window:
        from components.embed_shard.vector_cache import window_key
        from mistere.common.modalities import cell_of

        modality = self._embedder.modality
        items: list[_Item] = []
        for utterance in self._reader.read(part, (modality,)):
            context = self._previous.of(part.split, utterance)
            cell = cell_of(utterance, modality)
            key = None if cell is None else self._embedder.kind.digest(cell, context)
            items.append(_Item(part.split, utterance, context, key))
        if not self._embedder.batch_invariant:
            window = b"".join(item.key or b"-" for item in items)
            for item in items:
                item.key = item.key and window_key(window, item.key)
        hits = self._cache.find([item.key for item in items]) if self._cache is not None else {}
        return _Window(items, hits)

    def _prepare(self, item: _Item) -> Features | None:
        from mistere.common.errors import DataError
        from mistere.data.kinds.kind import UnreadableError
        from mistere.data.utterances import undecodable

        try:
            return self._embedder.prepare(item.utterance, item.context)
        except UnreadableError as error:
            message = undecodable(item.split, item.utterance, self._embedder.modality, error)
            if self._config.undecodable == "fail":
                raise DataError(message) from error
            item.undecodable = message
            return None

    def _keep(self, window: _Window, computed: np.ndarray) -> None:
        import numpy as np

        assert self._cache is not None
        cacheable = [
            index
            for index, item in enumerate(window.distinct)
            if item.key is not None and not np.isnan(computed[index, 0])
        ]
        self._cache.add([window.distinct[index].key or b"" for index in cacheable], computed[cacheable])


def share_of(ranges: list[RowRange], shard: TaskShard) -> list[RowRange]:
    """The consecutive ranges that a shard works on."""
    start, stop = (len(ranges) * edge // shard.of for edge in (shard.index, shard.index + 1))
    return ranges[start:stop]


@dataclass(slots=True)
class _Item:
    split: str
    utterance: Utterance
    context: tuple[str, ...]
    key: bytes | None
    undecodable: str = ""


class _Window:
    """A window's utterances: those with cached vectors, and the distinct ones among the others.

    Attributes:
        size: number of utterances.
        hits: cached vectors, by position.
        distinct: utterances to embed, one for each content.
    """

    def __init__(self, items: list[_Item], hits: dict[int, np.ndarray]) -> None:
        self.size, self.hits = len(items), hits
        self._missed = [index for index in range(len(items)) if index not in hits]
        positions: dict[bytes | int, int] = {}
        self._source = [positions.setdefault(items[index].key or index, len(positions)) for index in self._missed]
        first = dict(zip(reversed(self._source), reversed(self._missed), strict=True))
        self.distinct = [items[first[position]] for position in range(len(positions))]

    def filled(self, computed: np.ndarray, dimension: int) -> np.ndarray:
        """All vectors of the window, in order."""
        import numpy as np

        vectors = np.empty((self.size, dimension), dtype=np.float32)
        vectors[self._missed] = computed[self._source]
        for index, vector in self.hits.items():
            vectors[index] = vector
        return vectors

    def undecodable(self) -> list[str]:
        """A sentence for each utterance whose audio does not decode."""
        sentences = (self.distinct[position].undecodable for position in self._source)
        return [sentence for sentence in sentences if sentence]
