"""Utterance vectors from a fine-tuned encoder, batched by length: the one path of extraction and serving."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from components.core.config.encoder import EncoderConfig
from components.core.encoders import families
from components.core.encoders.family import Features
from components.core.encoders.inputs import HasModalities, encoder_input
from components.core.encoders.preparation import prepared
from components.core.encoders.utterance_encoder import UtteranceEncoder, load_tuned
from components.core.utterances import batches_by_length

T = TypeVar("T")
_WINDOW_BATCHES = 8


class Embedder:
    """A fine-tuned encoder ready to embed.

    Args:
        family: the family's name.
        base: folder of the base weights.
        tuned: ``tuned.safetensors``.
        settings: the encoder's section, as it was fine-tuned.
        classes: number of labels (the head's width).
    """

    def __init__(self, family: str, base: Path, tuned: Path, settings: dict[str, Any], classes: int) -> None:
        self.settings = EncoderConfig.model_validate(settings)
        self.encoder: UtteranceEncoder = load_tuned(
            families()[family](base, self.settings), self.settings, classes, tuned
        )
        self.modality = self.encoder.family.modality
        self.dimension = self.settings.projection

    def prepare(self, utterance: HasModalities) -> Features | None:
        """Features of one utterance, or None where it lacks the modality.

        Raises:
            AudioError: its audio does not decode.
        """
        value = encoder_input(self.modality, utterance, self.settings)
        return None if value is None else self.encoder.family.prepare(value)

    @torch.inference_mode()
    def embed(self, features: Sequence[Features | None]) -> np.ndarray:
        """Vectors float32 ``[N, dimension]`` in the order of ``features``; a NaN row where there is none."""
        vectors = np.full((len(features), self.dimension), np.nan, dtype=np.float32)
        there = [index for index, feature in enumerate(features) if feature is not None]
        lengths = [features[index]["length"] for index in there]  # type: ignore[index]
        for batch in batches_by_length(lengths, self.settings.extraction_batch):
            chosen = [there[position] for position in batch]
            collated = self.encoder.family.collate([features[index] for index in chosen])  # type: ignore[misc]
            vectors[chosen] = self.encoder.embed(collated).float().numpy()
        return vectors

    def embed_stream(self, utterances: Iterable[HasModalities]) -> Iterator[np.ndarray]:
        """Vectors of a long stream, a window of a few batches at a time: memory is that of one window."""
        for window in _windows(utterances, _WINDOW_BATCHES * self.settings.extraction_batch):
            yield self.embed(list(prepared(self.prepare, window)))


def _windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    window: list[T] = []
    for item in items:
        window.append(item)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
