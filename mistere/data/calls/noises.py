"""What a caller's surroundings add to speech: voices, a street, a room.

All functions take mono samples float32 ``[N]`` at 16 kHz. Nothing is read from a corpus of noises: babble is made of recordings of
other dialogues, the street and the room are synthesised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.data.kinds.audio import RATE

if TYPE_CHECKING:
    from numpy.random import Generator

_BABBLING: Final = 6
"""Voices at once: from about six on, no single one can be followed."""
_VEHICLES_A_SECOND: Final = 0.25
_HORNS_A_SECOND: Final = 0.05
_RUMBLE_HERTZ: Final = 40.0


def with_babble(
    wave: np.ndarray, decibels: float, draw: Generator, voices: Sequence[np.ndarray]
) -> tuple[np.ndarray, int]:
    """Six other voices, together ``decibels`` below the speech (root mean square over the utterance).

    Args:
        wave: the samples.
        decibels: signal-to-noise ratio in dB.
        draw: the random numbers.
        voices: samples ``[M]`` of other recordings at 16 kHz; without any, the speech stays as it is.
    """
    if not voices:
        return wave, RATE
    chosen = draw.choice(len(voices), min(_BABBLING, len(voices)), replace=False)
    noise = np.zeros(len(wave), np.float64)
    for index in chosen:
        voice = voices[int(index)]
        start = int(draw.integers(len(voice)))
        looped = np.resize(np.roll(voice, -start), len(wave)).astype(np.float64)
        noise += looped / max(_level(voice), 1e-9)
    return _mixed(wave, noise, decibels), RATE


def with_street(wave: np.ndarray, decibels: float, draw: Generator) -> tuple[np.ndarray, int]:
    """A street: a low rumble, passing vehicles and now and then a horn, ``decibels`` below the speech."""
    return _mixed(wave, street(len(wave), draw), decibels), RATE


def street(length: int, draw: Generator) -> np.ndarray:
    """The noise of a street, float64 ``[length]`` at 16 kHz, of any level."""
    rumble = _shaped(length, draw, lambda hertz: 1 / np.maximum(hertz, _RUMBLE_HERTZ))
    tyres = _shaped(length, draw, lambda hertz: np.exp(-0.5 * (np.log2(np.maximum(hertz, 1.0) / 700) / 1.2) ** 2))
    time = np.arange(length) / RATE
    seconds = length / RATE
    swell = np.zeros(length)
    for _ in range(1 + int(draw.poisson(_VEHICLES_A_SECOND * seconds))):
        passes, width, loudness = draw.uniform(0, seconds), draw.uniform(0.4, 1.5), draw.uniform(0.5, 2.0)
        swell += loudness * np.exp(-0.5 * ((time - passes) / width) ** 2)
    noise = rumble * (1 + 0.5 * swell) + tyres * swell
    for _ in range(int(draw.poisson(_HORNS_A_SECOND * seconds))):
        begins, lasts = draw.uniform(0, seconds), draw.uniform(0.2, 0.7)
        sounding = (time >= begins) & (time < begins + lasts)
        pitch = draw.uniform(0.9, 1.1)
        horn = sum(np.sign(np.sin(2 * np.pi * pitch * hertz * time)) for hertz in (420.0, 510.0))
        noise += 0.5 * sounding * horn
    return noise


def _shaped(length: int, draw: Generator, gain: object) -> np.ndarray:
    """Noise ``[length]`` of unit level whose spectrum has the amplitude ``gain(hertz)``."""
    assert callable(gain)
    spectrum = np.fft.rfft(draw.standard_normal(length))
    shaped = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(length, 1 / RATE)), length)
    return np.asarray(shaped / max(_level(shaped), 1e-12))


def in_a_room(wave: np.ndarray, seconds: float, draw: Generator) -> tuple[np.ndarray, int]:
    """Reverberation that decays by 60 dB in ``seconds``; the level of the speech stays.

    The response is the direct sound and a decaying noise, as in the diffuse part of a real one. The longer a room echoes, the more of
    its energy is in the echo: as much as the direct sound at 0.6 s, half as much at 0.3 s.
    """
    from scipy.signal import fftconvolve

    time = np.arange(1, int(seconds * RATE)) / RATE
    tail = draw.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail *= np.sqrt(seconds / 0.6 / max(float((tail**2).sum()), 1e-12))
    response = np.concatenate([[1.0], tail])
    reverberant = fftconvolve(wave.astype(np.float64), response)[: len(wave)]
    return (reverberant * (_level(wave) / max(_level(reverberant), 1e-12))).astype(np.float32), RATE


def _mixed(wave: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    level = _level(noise)
    if not level:
        return wave
    return (wave + noise * (_level(wave) / level * 10 ** (-decibels / 20))).astype(np.float32)


def _level(wave: np.ndarray) -> float:
    """Root mean square of samples ``[N]``."""
    return float(np.sqrt(np.mean(wave.astype(np.float64) ** 2))) if len(wave) else 0.0
