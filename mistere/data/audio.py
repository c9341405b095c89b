"""Decode audio to mono samples and measure waveforms, in one way for validation, training and serving."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from mistere.common.errors import MistereError

if TYPE_CHECKING:
    import numpy as np

SILENCE_FLOOR_DBFS = -120.0
_CLIPPED_AT = 0.999
_RATES = range(1_000, 384_001)
_MAX_CHANNELS = 8
_FINEST_RATIO = 4000


class AudioError(MistereError):
    """Audio that cannot be used; the message is one sentence."""


class EmptyAudioError(AudioError):
    """Audio without a byte, or without a sample."""


def decode(data: bytes, max_seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Decode an encoded file (WAV, FLAC, OGG Vorbis or Opus, MP3) at its own rate.

    Args:
        data: the file's bytes.
        max_seconds: stop decoding one sample after this, so that a small file that decodes to hours costs little.

    Returns:
        Mono samples as float32 ``[N]`` in −1..1 (the mean of the channels), N > 0, and their rate in Hz.

    Raises:
        EmptyAudioError: the file has no byte, or decodes to no sample.
        AudioError: libsndfile cannot read it, its header claims an implausible rate or number of channels, or it holds NaN or
            infinity.
    """
    recording = decode_recording(data, max_seconds)
    return recording.wave, recording.rate


class Recording(NamedTuple):
    """A decoded file: mono samples float32 ``[N]``, their rate in Hz, and the channels and seconds that its header claims."""

    wave: np.ndarray
    rate: int
    channels: int
    claimed_seconds: float


def decode_recording(data: bytes, max_seconds: float | None = None) -> Recording:
    """As :func:`decode`, with the values of the header."""
    import numpy as np
    import soundfile

    if not data:
        raise EmptyAudioError("The audio is empty (0 bytes).")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, claimed = file.samplerate, file.frames
            _check_header(rate, file.channels)
            frames = -1 if max_seconds is None else int(max_seconds * rate) + 1
            wave = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        reason = " ".join(str(getattr(error, "error_string", "") or error).split()).rstrip(".")
        raise AudioError(f"The audio does not decode ({reason}; {len(data)} bytes).") from error
    if wave.shape[0] == 0:
        raise EmptyAudioError("The audio has zero length: it decodes to no sample at all.")
    mono = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise AudioError("The audio holds values that are no numbers (NaN or infinity).")
    return Recording(np.ascontiguousarray(mono), int(rate), wave.shape[1], claimed / rate)


def _check_header(rate: int, channels: int) -> None:
    """Refuse implausible headers before anything is decoded: a few bytes may claim more than any machine can hold."""
    if rate not in _RATES:
        raise AudioError(f"The audio claims {rate} samples a second: {_RATES[0]} to {_RATES[-1]} Hz are read.")
    if channels > _MAX_CHANNELS:
        raise AudioError(f"The audio claims {channels} channels: at most {_MAX_CHANNELS} are read.")


def encode_flac(wave: np.ndarray, rate: int) -> bytes:
    """Encode mono samples ``[N]`` as 24-bit FLAC, which keeps them to 1e-7."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_24")
    return buffer.getvalue()


def resample(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resample with a polyphase filter (no aliasing, no delay).

    The length of the filter grows with the terms of the ratio, so an unusual rate (383,987 Hz) is approximated to within a part in
    a million; every usual rate is exact.

    Args:
        wave: mono samples ``[N]``.
        rate: their rate in Hz.
        target: the new rate in Hz.

    Returns:
        float32 ``[ceil(N · target / rate)]``; the samples themselves where the rates are equal.
    """
    import numpy as np

    if rate == target:
        return wave.astype(np.float32, copy=False)
    from scipy.signal import resample_poly

    ratio = Fraction(target, rate).limit_denominator(_FINEST_RATIO)
    changed = np.asarray(resample_poly(wave, ratio.numerator, ratio.denominator), np.float32)
    length = -(-len(wave) * target // rate)
    return changed[:length] if len(changed) >= length else np.pad(changed, (0, length - len(changed)))


def rms_dbfs(wave: np.ndarray) -> float:
    """Level of samples ``[N]``: root mean square in dB relative to full scale, −120 for digital silence."""
    import numpy as np

    power = float(np.dot(wave, wave)) / wave.size if wave.size else 0.0
    return max(10.0 * math.log10(power), SILENCE_FLOOR_DBFS) if power > 0 else SILENCE_FLOOR_DBFS


def quiet_share(wave: np.ndarray, rate: int, level_dbfs: float) -> float:
    """Share 0..1 of the 20 ms frames of samples ``[N]`` whose RMS level is below ``level_dbfs``."""
    import numpy as np

    size = max(1, rate // 50)
    whole = wave[: len(wave) // size * size].reshape(-1, size)
    if not len(whole):
        return float(rms_dbfs(wave) < level_dbfs)
    power = np.einsum("fs,fs->f", whole, whole) / size
    return float(np.mean(power < 10.0 ** (level_dbfs / 10.0)))


def clipped_share(wave: np.ndarray) -> float:
    """Share 0..1 of the samples ``[N]`` at full scale."""
    import numpy as np

    return float(np.mean(np.abs(wave) >= _CLIPPED_AT)) if wave.size else 0.0
