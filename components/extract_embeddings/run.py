"""``extract_embeddings``: one modality's vectors for all utterances, streamed in and out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.core.artifact_io import Opened, open_artifact
from components.core.config.base import Section
from components.core.dataset import SPLITS, Utterance
from components.core.embeddings import UTTERANCES_FILE
from components.core.manifests import BaseEncoder, EmbeddingSet, EncoderCheckpoint, UtteranceSet
from components.core.stage import Result, Stage, Step

if TYPE_CHECKING:
    from components.core.encoders.embedding import Embedder

STAGE = Stage(
    name="extract_embeddings",
    config=Section,
    inputs={"utterances": UtteranceSet, "encoder": EncoderCheckpoint},
    outputs={"embeddings": EmbeddingSet},
)


def run(
    config: Section,
    step: Step,
    utterances: Opened[UtteranceSet],
    encoder: Opened[EncoderCheckpoint],
    embeddings: Path,
    modality: Literal["speech", "text"],
) -> Result:
    """Embed every utterance, or say that the modality is absent.

    Args:
        config: empty: everything that matters is in the encoder.
        step: this execution.
        utterances: the dataset.
        encoder: the fine-tuned encoder.
        embeddings: folder of the output artifact.
        modality: which one.
    """
    if encoder.manifest.absent:
        return Result(manifests={"embeddings": EmbeddingSet(modality=modality, absent=True)})
    with step.loading():
        import transformers.modeling_utils  # noqa: F401  (families import it when they load)

        from components.core.encoders.embedding import Embedder

    made = encoder.manifest
    base = open_artifact(step.store, BaseEncoder, made.base_digest)
    embedder = Embedder(made.family, base.path, encoder.file("tuned.safetensors"), made.settings, len(made.labels))
    missing = _write(embedder, step, utterances.manifest, embeddings)
    return Result(
        manifests={
            "embeddings": EmbeddingSet(
                modality=modality,
                dimension=embedder.dimension,
                labels=made.labels,
                rows=utterances.manifest.rows,
                missing=missing,
                encoder_digest=made.encoder_digest,
                test_digest=utterances.manifest.test_digest,
            )
        }
    )


def _write(embedder: Embedder, step: Step, reference: UtteranceSet, folder: Path) -> int:
    """Write ``utterances.parquet`` and ``<modality>.npy``; returns how many utterances lack the modality."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.core.utterances import UtteranceReader

    reader = UtteranceReader(reference)
    speech = embedder.modality == "speech"
    rows: list[dict[str, str | int]] = []

    def stream() -> Iterator[Utterance]:
        for split in SPLITS:
            for dialogue in reader.dialogues(split, audio=speech, text=not speech):
                for utterance in dialogue:
                    rows.append(
                        {
                            "split": split,
                            "dialogue_id": utterance.dialogue_id,
                            "turn": utterance.turn,
                            "label": utterance.label,
                        }
                    )
                    yield utterance

    total = sum(reference.rows.values())
    matrix = np.lib.format.open_memmap(
        folder / f"{embedder.modality}.npy", mode="w+", dtype=np.float32, shape=(total, embedder.dimension)
    )
    done = missing = 0
    for vectors in embedder.embed_stream(stream()):
        matrix[done : done + len(vectors)] = vectors
        done += len(vectors)
        missing += int(np.isnan(vectors[:, 0]).sum())
        step.progress("utterances", done, total)
    matrix.flush()
    pq.write_table(pa.Table.from_pylist(rows), folder / UTTERANCES_FILE, compression="zstd")
    return missing
