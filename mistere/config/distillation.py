"""The ``distillation`` section: how a small student of a released model is made."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from mistere.config.base import SeededSection
from mistere.config.encoder import Device


class DistillationConfig(SeededSection):
    """Settings of ``mistere distill`` and of the distillation pipeline.

    The losses of the encoders and of the mixture each have two parts: ``teacher_share`` of them is the divergence from the teacher's
    softened probabilities (Hinton et al., arXiv 1503.02531), the rest is the loss on the labels.

    Attributes:
        teacher: digest of the bundle to make a student of, for the pipeline; empty for the champion.
        layers: layers of the teacher's encoder that the student keeps, evenly spread from the first on.
        pooled: positions of speech (20 ms each) that are averaged into one before the kept layers.
        audio_encoder: ``shortened`` keeps layers of the teacher's if its family can be shortened (Whisper);
            ``convolutional`` is a small encoder that starts from random weights and needs more data.
        temperature: divides the logits of both before their divergence; higher values tell more of the unlikely labels.
        teacher_share: weight of the divergence from the teacher; the labels have the rest.
        vector_weight: weight of the squared distance to the teacher's utterance vectors, in training an encoder.
        weights_weight: weight of the divergence from the teacher's expert weights, in training the mixture.
        epochs: epochs of training an encoder with kept layers.
        new_epochs: epochs of training an encoder from random weights.
        batch_size: utterances of an optimiser step.
        learning_rate: peak learning rate of layers that are kept.
        new_learning_rate: peak learning rate of weights that start from random numbers.
        weight_decay: weight decay of AdamW.
        device: of the training of an encoder; ``auto`` uses a GPU if there is one, ``cuda`` requires one.
        margin: by how much weighted F1 may be below the teacher's.
        max_mb: goal for the student's size with its base weights, in MiB; reported, not enforced.
        min_speedup: goal for how many times faster a turn is predicted than by the teacher; reported, not enforced.
        timed_dialogues: dialogues of the test split whose prediction is timed.
    """

    outside_key: ClassVar[frozenset[str]] = frozenset({"teacher", "margin", "max_mb", "min_speedup", "timed_dialogues"})

    teacher: str = Field(default="", pattern=r"^$|^[0-9a-f]{64}$")
    layers: int = Field(default=1, gt=0)
    pooled: int = Field(default=8, gt=0, le=32)
    audio_encoder: Literal["shortened", "convolutional"] = "shortened"
    temperature: float = Field(default=2.0, gt=0)
    teacher_share: float = Field(default=0.7, ge=0, le=1)
    vector_weight: float = Field(default=1.0, ge=0)
    weights_weight: float = Field(default=0.5, ge=0)
    epochs: int = Field(default=10, gt=0)
    new_epochs: int = Field(default=40, gt=0)
    batch_size: int = Field(default=16, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    new_learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    device: Device = "auto"
    margin: float = Field(default=0.02, ge=0, le=1)
    max_mb: float = Field(default=60.0, gt=0)
    min_speedup: float = Field(default=5.0, gt=0)
    timed_dialogues: int = Field(default=20, gt=0)

    def for_student(self) -> dict[str, Any]:
        """The settings that a student records: all but those of how and where the work runs."""
        return self.model_dump(mode="json", exclude={*self.outside_key, "device"})
