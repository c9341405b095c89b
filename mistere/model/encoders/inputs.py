"""The input of an encoder: a transcript with the turns before it, or mono samples at 16 kHz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mistere.config.encoder import EncoderConfig
from mistere.data.audio import decode, resample
from mistere.data.text_repair import is_blank

RATE = 16000


class HasModalities(Protocol):
    """An object with a transcript and encoded audio, either of which may be None."""

    @property
    def text(self) -> str | None: ...

    @property
    def audio(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of an utterance and of the turns before it, oldest first."""

    text: str
    context: tuple[str, ...] = ()


def encoder_input(
    modality: str, utterance: HasModalities, settings: EncoderConfig, context: Sequence[str] = ()
) -> Any | None:
    """The input of one modality's encoder; None if the utterance lacks the modality or its text is blank.

    Args:
        modality: ``speech`` or ``text``.
        utterance: the utterance to embed.
        settings: the encoder's section.
        context: transcripts of the turns before it, oldest first; the last ``context_turns`` are used.

    Raises:
        AudioError: the audio does not decode.
    """
    if modality == "speech":
        return speech_samples(utterance.audio, settings) if utterance.audio else None
    if utterance.text is None or is_blank(utterance.text):
        return None
    turns = context[-settings.context_turns :] if settings.context_turns else ()
    return Transcript(utterance.text, tuple(turn for turn in turns if not is_blank(turn)))


def speech_samples(data: bytes, settings: EncoderConfig) -> np.ndarray:
    """Mono samples float32 ``[N]`` at 16 kHz, cropped to ``max_seconds`` and padded with silence to ``min_seconds``.

    With ``crop: start`` decoding stops after ``max_seconds``, so a recording of ten minutes costs no more than one of
    ``max_seconds``. The other crops need the whole recording.
    """
    return crop_and_pad(*decode(data, settings.max_seconds if settings.crop == "start" else None), settings)


def crop_and_pad(wave: np.ndarray, rate: int, settings: EncoderConfig) -> np.ndarray:
    """Crop, resample and pad decoded samples as :func:`speech_samples` does; ``wave`` holds at least what that decodes."""
    limit = int(settings.max_seconds * rate) + 1
    if len(wave) > limit:
        begin = {"start": 0, "middle": (len(wave) - limit) // 2, "end": len(wave) - limit}[settings.crop]
        wave = wave[begin : begin + limit]
    wave = resample(wave, rate, RATE)[: int(settings.max_seconds * RATE)]
    missing = int(settings.min_seconds * RATE) - len(wave)
    return np.pad(wave, (0, missing)) if missing > 0 else wave
