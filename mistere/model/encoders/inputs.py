"""From an utterance to what an encoder is fed: its transcript with the turns before it, or mono samples at 16 kHz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mistere.config.encoder import EncoderConfig
from mistere.data.audio import decode, resample

RATE = 16000


class HasModalities(Protocol):
    """Anything with a transcript and encoded audio, either of which may be missing."""

    @property
    def text(self) -> str | None: ...

    @property
    def audio(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Transcript:
    """An utterance's words, and those of the turns before it, oldest first."""

    text: str
    context: tuple[str, ...] = ()


def encoder_input(
    modality: str, utterance: HasModalities, settings: EncoderConfig, context: Sequence[str] = ()
) -> Any | None:
    """The input for one modality's encoder, or None where the utterance lacks it (blank text counts as none).

    Args:
        modality: ``speech`` or ``text``.
        utterance: what is embedded.
        settings: the encoder's section.
        context: transcripts of the turns before it, oldest first; as many are read as ``context_turns`` says.

    Raises:
        AudioError: the audio does not decode.
    """
    if modality == "speech":
        return speech_samples(utterance.audio, settings) if utterance.audio else None
    if not utterance.text or not utterance.text.strip():
        return None
    turns = context[-settings.context_turns :] if settings.context_turns else ()
    return Transcript(utterance.text, tuple(turn for turn in turns if turn and turn.strip()))


def speech_samples(data: bytes, settings: EncoderConfig) -> np.ndarray:
    """Mono samples float32 ``[N]`` at 16 kHz, cropped to ``max_seconds`` and padded with silence to ``min_seconds``.

    From the start no more is decoded than is heard, so that an utterance of ten minutes costs what one of
    ``max_seconds`` does; the middle or the end of an utterance is only known once all of it is decoded.
    """
    return heard(*decode(data, settings.max_seconds if settings.crop == "start" else None), settings)


def heard(wave: np.ndarray, rate: int, settings: EncoderConfig) -> np.ndarray:
    """What is heard of decoded samples: as :func:`speech_samples`, from at least as much as that decodes."""
    most = int(settings.max_seconds * rate) + 1
    if len(wave) > most:
        begin = {"start": 0, "middle": (len(wave) - most) // 2, "end": len(wave) - most}[settings.crop]
        wave = wave[begin : begin + most]
    wave = resample(wave, rate, RATE)[: int(settings.max_seconds * RATE)]
    short = int(settings.min_seconds * RATE) - len(wave)
    return np.pad(wave, (0, short)) if short > 0 else wave
