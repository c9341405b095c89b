"""Degradations of speech and text: noise, a telephone line, unrecognised words."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from mistere.data.audio import AudioError, decode, resample
from mistere.data.dataset import Utterance

Degradation = Callable[[Utterance, np.random.Generator], Utterance]
TELEPHONE_RATE = 8000
_BAND = (300.0, 3400.0)


def noisy(wave: np.ndarray, decibels: float, draw: np.random.Generator) -> np.ndarray:
    """Samples ``[N]`` with white noise ``decibels`` below their own level (root mean square)."""
    level = float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))
    noise = draw.standard_normal(len(wave)) * level * 10 ** (-decibels / 20)
    return (wave + noise).astype(np.float32)


def telephone_band(wave: np.ndarray, rate: int) -> np.ndarray:
    """Samples at 8 kHz, band-limited to 300 to 3400 Hz like a telephone line (zero-phase Butterworth filter of order 4)."""
    from scipy.signal import butter, sosfiltfilt

    narrow = resample(wave, rate, TELEPHONE_RATE)
    filter_ = butter(4, _BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    padding = min(len(narrow) - 1, 3 * (2 * len(filter_) + 1))
    return np.asarray(sosfiltfilt(filter_, narrow, padlen=max(0, padding)), np.float32)


def without_words(text: str, share: float, draw: np.random.Generator) -> str:
    """The text with each word dropped with probability ``share``; at least one word is kept."""
    words = text.split()
    kept = [word for word, dropped in zip(words, draw.random(len(words)) < share, strict=True) if not dropped]
    return " ".join(kept or words[:1])


def _encoded(wave: np.ndarray, rate: int, subtype: str) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


def _on_audio(change: Callable[[np.ndarray, int, np.random.Generator], bytes]) -> Degradation:
    def degrade(utterance: Utterance, draw: np.random.Generator) -> Utterance:
        if not utterance.audio:
            return utterance
        try:
            wave, rate = decode(utterance.audio)
        except AudioError:
            return utterance
        return replace(utterance, audio=change(wave, rate, draw))

    return degrade


def _with_noise(decibels: float, wave: np.ndarray, rate: int, draw: np.random.Generator) -> bytes:
    return _encoded(noisy(wave, decibels, draw), rate, "FLOAT")


def _telephone_line(subtype: str, wave: np.ndarray, rate: int, draw: np.random.Generator) -> bytes:
    return _encoded(telephone_band(wave, rate), TELEPHONE_RATE, subtype)


def _dropped_words(share: float, utterance: Utterance, draw: np.random.Generator) -> Utterance:
    return replace(utterance, text=without_words(utterance.text, share, draw)) if utterance.text else utterance


DEGRADATIONS: dict[str, Degradation] = {
    "noise_20db": _on_audio(partial(_with_noise, 20.0)),
    "noise_10db": _on_audio(partial(_with_noise, 10.0)),
    "noise_0db": _on_audio(partial(_with_noise, 0.0)),
    "telephone": _on_audio(partial(_telephone_line, "FLOAT")),
    "telephone_codec": _on_audio(partial(_telephone_line, "ULAW")),
    "words_10": partial(_dropped_words, 0.1),
    "words_20": partial(_dropped_words, 0.2),
}
"""By the conditions' names in :data:`mistere.config.evaluation.CONDITIONS`."""
