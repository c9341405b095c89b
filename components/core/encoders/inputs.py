"""From an utterance to what an encoder is fed: its transcript, or mono samples at 16 kHz, cropped and padded."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from components.core.audio import decode, resample
from components.core.config.encoder import EncoderConfig

RATE = 16000


class HasModalities(Protocol):
    """Anything with a transcript and encoded audio, either of which may be missing."""

    @property
    def text(self) -> str | None: ...

    @property
    def audio(self) -> bytes | None: ...


def encoder_input(modality: str, utterance: HasModalities, settings: EncoderConfig) -> Any | None:
    """The input for one modality's encoder, or None where the utterance lacks it (blank text counts as none).

    Raises:
        AudioError: the audio does not decode.
    """
    if modality == "text":
        return utterance.text if utterance.text and utterance.text.strip() else None
    return speech_samples(utterance.audio, settings) if utterance.audio else None


def speech_samples(data: bytes, settings: EncoderConfig) -> np.ndarray:
    """Mono samples float32 ``[N]`` at 16 kHz, cut at ``max_seconds`` and padded with silence to ``min_seconds``."""
    wave, rate = decode(data, settings.max_seconds)
    wave = resample(wave, rate, RATE)[: int(settings.max_seconds * RATE)]
    short = int(settings.min_seconds * RATE) - len(wave)
    return np.pad(wave, (0, short)) if short > 0 else wave
