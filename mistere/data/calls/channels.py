"""What a telephone connection does to speech: codecs, lost packets with their concealment, clipping.

All functions take mono samples float32 ``[N]`` at 16 kHz.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.data.kinds.audio import RATE, TELEPHONE_RATE, telephone_band

if TYPE_CHECKING:
    from numpy.random import Generator

_PACKET_SECONDS: Final = 0.02
_BURST: Final = 2.0
"""Mean number of packets that are lost in a row; losses on the internet come in bursts."""
_PITCH_HERTZ: Final = (66.0, 400.0)
_HELD_SECONDS: Final = 0.01
"""A gap is filled at full level for this long, as ITU-T G.711 appendix I does, and faded out over the next 50 ms."""
_FADED_SECONDS: Final = 0.06
_OVERLAP_SECONDS: Final = 0.005


def through_mulaw(wave: np.ndarray) -> tuple[np.ndarray, int]:
    """A telephone's band and G.711 µ-law, at 8 kHz."""
    return mulaw(np.clip(np.rint(32768.0 * telephone_band(wave, RATE)), -32768, 32767).astype(np.int16))


def mulaw(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """G.711 µ-law of int16 samples ``[N]`` at 8 kHz, bit by bit that of the reference software (ITU-T G.191)."""
    # libsndfile divides negative samples towards zero, where the reference takes the ones' complement.
    return _through_codec(samples + (samples < 0), TELEPHONE_RATE, "WAV", "ULAW")


def through_gsm(wave: np.ndarray) -> tuple[np.ndarray, int]:
    """A telephone's band and GSM 06.10 full rate (13 kbit/s), at 8 kHz."""
    return _through_codec(telephone_band(wave, RATE), TELEPHONE_RATE, "WAV", "GSM610")


def through_opus(wave: np.ndarray, kilobits: float) -> tuple[np.ndarray, int]:
    """Opus with about this many kbit/s, at 16 kHz."""
    return _through_codec(wave, RATE, "OGG", "OPUS", _opus_level(kilobits))


def _opus_level(kilobits: float) -> float:
    """The compression level of libsndfile for a bit rate, which falls linearly from 256 kbit/s at 0 to 6 at 1."""
    return float(np.clip((256.0 - kilobits) / 250.0, 0.0, 1.0))


def _through_codec(
    wave: np.ndarray, rate: int, form: str, subtype: str, compression: float | None = None
) -> tuple[np.ndarray, int]:
    """Encode and decode float or int16 samples in memory; the length stays, although a codec fills up its last frame."""
    import soundfile

    buffer = io.BytesIO()
    samples = np.clip(np.nan_to_num(wave), -1.0, 1.0) if wave.dtype.kind == "f" else wave
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype, compression_level=compression)
    buffer.seek(0)
    decoded, actual = soundfile.read(buffer, dtype="float32")
    length = -(-len(wave) * actual // rate)
    return np.pad(decoded, (0, max(0, length - len(decoded))))[:length], int(actual)


def with_lost_packets(wave: np.ndarray, share: float, draw: Generator) -> tuple[np.ndarray, int]:
    """Packets of 20 ms lost in bursts, each gap concealed by repeating the last pitch period with a fade.

    Args:
        wave: the samples.
        share: share of the packets that are lost, 0..1 (a two-state Markov chain with bursts of two packets on average).
        draw: the random numbers; the same draws at a higher share lose at least about the same packets.
    """
    size = int(_PACKET_SECONDS * RATE)
    lost = _lost(-(-len(wave) // size), share, draw)
    output = wave.astype(np.float32, copy=True)
    index = 0
    while index < len(lost):
        if not lost[index]:
            index += 1
            continue
        end = index
        while end < len(lost) and lost[end]:
            end += 1
        start, stop = index * size, min(end * size, len(wave))
        _conceal(output, wave, start, stop)
        index = end
    return output, RATE


def _lost(packets: int, share: float, draw: Generator) -> np.ndarray:
    """Which packets are lost ``[packets]``."""
    leave = min(1 / _BURST, (1 - share) / max(share, 1e-9))  # above two of three packets, bursts must be longer
    enter = min(1.0, share * leave / (1 - share)) if share < 1 else 1.0
    lost = np.zeros(packets, bool)
    state = False
    for index, number in enumerate(draw.random(packets)):
        state = number < (1 - leave if state else enter)
        lost[index] = state
    return lost


def _conceal(output: np.ndarray, wave: np.ndarray, start: int, stop: int) -> None:
    """Fill ``output[start:stop]`` from what was heard before, and blend it into what follows."""
    overlap = int(_OVERLAP_SECONDS * RATE)
    blended = min(stop + overlap, len(output)) - stop
    period = _pitch_period(output[:start])
    length = stop + blended - start
    if period:
        last = output[start - period : start]
        filled = np.tile(last, -(-length // period))[:length]
    else:
        filled = np.zeros(length, np.float32)
    seconds = np.arange(length) / RATE
    gain = np.clip((_FADED_SECONDS - seconds) / (_FADED_SECONDS - _HELD_SECONDS), 0.0, 1.0).astype(np.float32)
    filled = filled * gain
    output[start:stop] = filled[: stop - start]
    if blended:
        ramp = np.linspace(0, 1, blended, dtype=np.float32)
        output[stop : stop + blended] = ramp * wave[stop : stop + blended] + (1 - ramp) * filled[stop - start :]


def _pitch_period(before: np.ndarray) -> int:
    """The pitch period at the end of the samples, in samples; 0 if there is too little or nothing but silence."""
    longest, shortest = int(RATE / _PITCH_HERTZ[0]), int(RATE / _PITCH_HERTZ[1])
    if len(before) < 2 * longest:
        return 0
    recent = before[-2 * longest :].astype(np.float64)
    target = recent[longest:]
    if not target.any():
        return 0
    lags = np.arange(shortest, longest + 1)
    windows = np.lib.stride_tricks.sliding_window_view(recent, longest)[longest - lags]
    norms = np.sqrt((windows**2).sum(1)) + 1e-9
    return int(lags[int(np.argmax(windows @ target / norms))])


def clipped(wave: np.ndarray, share: float) -> tuple[np.ndarray, int]:
    """Speech that overloads its line: the loudest ``share`` (0..1) of the samples cut off, at the level that it had before."""
    if not wave.any():
        return wave, RATE
    limit = max(float(np.quantile(np.abs(wave), 1 - share)), 1e-6)
    cut = np.clip(wave.astype(np.float64), -limit, limit)
    return (cut * np.sqrt((wave.astype(np.float64) ** 2).mean() / (cut**2).mean())).astype(np.float32), RATE
