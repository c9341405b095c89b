"""``distill_encoder``: train a small encoder of one modality on the vectors and probabilities of a larger one.

The student keeps some layers of the teacher's if its family can be shortened: text, and Whisper. A speech encoder of another family, or
with ``distillation.audio_encoder=convolutional``, is the family ``convolutional``, from random weights. Of a kind without a small family
(images, vectors) the student keeps the teacher's encoder.
"""

from __future__ import annotations

from pathlib import Path

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingSet, EncoderCheckpoint, UtteranceSet
from mistere.common.modalities import Modality
from mistere.config.distillation import DistillationConfig
from mistere.engine.stage import Result, Stage, Step

STAGE = Stage(
    name="distill_encoder",
    config=DistillationConfig,
    inputs={"utterances": UtteranceSet, "teacher": EncoderCheckpoint, "vectors": EmbeddingSet},
    outputs={"encoder": EncoderCheckpoint},
    imports=("torch",),
)


def run(
    config: DistillationConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    teacher: ArtifactHandle[EncoderCheckpoint],
    vectors: ArtifactHandle[EmbeddingSet],
    encoder: Path,
    modality: Modality,
) -> Result:
    """Train the student's encoder, or mark it as absent if the teacher has none.

    Args:
        config: the ``distillation`` section.
        step: this execution.
        utterances: the dataset; test is not read.
        teacher: the larger encoder.
        vectors: its vectors of the dataset.
        encoder: folder of the output artifact.
        modality: the encoders' modality.
    """
    if teacher.manifest.absent or vectors.manifest.absent:
        return Result(manifests={"encoder": EncoderCheckpoint(modality=modality, absent=True)})
    with step.loading():
        from components.distill_encoder.student import distill

    return Result(manifests={"encoder": distill(config, step, utterances.manifest, teacher, vectors, encoder)})
