"""Mel filter banks as Kaldi computes them, the input of BEATs."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Final

import numpy as np

BANDS: Final = 128
_WINDOW: Final = 400
"""Samples of a window: 25 ms at 16 kHz."""
_HOP: Final = 160
_TRANSFORM: Final = 512
_PREEMPHASIS: Final = 0.97
_FULL_SCALE: Final = 2**15
"""Kaldi reads samples as 16-bit integers."""
_MEAN, _DEVIATION = 15.41663, 6.55582
"""Of AudioSet's filter banks, by which BEATs was trained; the published code divides by twice the deviation."""


def filter_banks(wave: np.ndarray) -> np.ndarray:
    """Normalised logarithmic mel filter banks ``[T, 128]`` at 100 Hz of samples ``[N]`` at 16 kHz.

    Only windows that lie in the samples are computed, without dither: ``T = 1 + (N - 400) // 160``, or 0 for fewer than 400 samples.
    """
    if len(wave) < _WINDOW:
        return np.zeros((0, BANDS), np.float32)
    samples = wave.astype(np.float64) * _FULL_SCALE
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    windows = windows - windows.mean(1, keepdims=True)
    before = np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
    shape, filters = _window_and_filters()
    power = np.abs(np.fft.rfft((windows - _PREEMPHASIS * before) * shape, _TRANSFORM)) ** 2
    banks = np.log(np.maximum(power @ filters, np.finfo(np.float32).eps))
    return ((banks - _MEAN) / (2 * _DEVIATION)).astype(np.float32)


@cache
def _window_and_filters() -> tuple[np.ndarray, np.ndarray]:
    """Povey's window ``[400]`` and the triangular mel filters ``[257, 128]`` from 20 Hz to 8 kHz."""
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lowest filters are narrower than a band of the spectrum, as in Kaldi
        filters = mel_filter_bank(
            num_frequency_bins=_TRANSFORM // 2 + 1,
            num_mel_filters=BANDS,
            min_frequency=20.0,
            max_frequency=8000.0,
            sampling_rate=16000,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return np.hanning(_WINDOW) ** 0.85, np.asarray(filters, np.float64)
