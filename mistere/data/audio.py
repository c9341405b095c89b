"""Decode audio to mono samples and measure waveforms, in one way for validation, training and serving."""

from __future__ import annotations

import io
import math
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from mistere.data.kinds.kind import UnreadableError

if TYPE_CHECKING:
    import numpy as np

    from mistere.data.recordings.layout import Layout

SILENCE_FLOOR_DBFS = -120.0
_CLIPPED_AT = 0.999
_FINEST_RATIO = 4000
MAX_SECONDS = 3600.0
"""A recording that lasts longer is refused unless a lower limit is given: no utterance does."""
MAX_SAMPLES = 1 << 28
"""The most samples that are decoded of a recording: 1 GiB."""
HIGHEST_PEAK = 2.0**31
"""The highest sample that is accepted: that of integers of 32 bits which were written as floats. Beyond 1e18 squares overflow."""
_STEPS = 1 << 23
_FLAC_RATE = 65_535
"""Hz; FLAC cannot state every higher rate."""


class AudioError(UnreadableError):
    """Audio that cannot be used; the message is one sentence."""


class EmptyAudioError(AudioError):
    """Audio without a byte, or without a sample."""


def decode(data: bytes, max_seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Decode an encoded file of one of :data:`mistere.data.recordings.formats.FORMATS` at its own rate.

    The samples are decoded until nothing comes, whatever length the header states.

    Args:
        data: the file's bytes.
        max_seconds: stop decoding one sample after this, so that a small file that decodes to hours costs little.

    Returns:
        Mono samples as float32 ``[N]`` in −1..1 (the mean of the channels), N > 0, and their rate in Hz.

    Raises:
        EmptyAudioError: the file has no byte, or decodes to no sample.
        AudioError: the file is of another format or damaged, its header states an implausible rate, it holds NaN, infinity or samples
            beyond :data:`HIGHEST_PEAK`, or, without ``max_seconds``, it lasts more than an hour.
    """
    recording = decode_recording(data, max_seconds)
    return recording.wave, recording.rate


class Recording(NamedTuple):
    """A decoded file.

    Attributes:
        wave: mono samples float32 ``[N]``.
        rate: their rate in Hz.
        channels: channels of the file.
        seconds: duration of the whole file, also where only its beginning is decoded.
        cut_short: whether it ends before the end that its header states.
    """

    wave: np.ndarray
    rate: int
    channels: int
    seconds: float
    cut_short: bool


class AudioExtent(NamedTuple):
    """What a file decodes to.

    Attributes:
        seconds: an upper bound of its duration, by its bytes, in s.
        rate: its rate in Hz, the highest of joined files.
        channels: its channels, the most of joined files.
        stated: the duration that its header states, if that is longer than the bytes allow; else ``seconds``.
    """

    seconds: float
    rate: int
    channels: int
    stated: float


def decode_recording(data: bytes, max_seconds: float | None = None) -> Recording:
    """As :func:`decode`, with facts about the whole file.

    The files in a joined or chained file are decoded one after another; one with another rate than the first is resampled.
    """
    from mistere.data.recordings.inspection import inspect_again

    try:
        return _decoded(data, _layout(data), max_seconds)
    except AudioError:
        other = inspect_again(data)
        if other is None:
            raise
    return _decoded(data, other, max_seconds)


def _decoded(data: bytes, layout: Layout, max_seconds: float | None) -> Recording:
    import numpy as np

    from mistere.data.recordings.decoding import FAILURES, is_cut_short, opened, read_mono

    waves: list[np.ndarray] = []
    rate = channels = decoded = most = 0
    cut_short = layout.cut_short
    for part in layout.parts:
        try:
            with opened(part) as (header, file):
                _check_rate(header.rate)
                if not rate:
                    rate = header.rate
                    most = min(MAX_SAMPLES, int((MAX_SECONDS if max_seconds is None else max_seconds) * rate) + 1)
                left = -(-(most - decoded) * header.rate // rate)
                wave = read_mono(file, header, part, left)
        except FAILURES as error:
            raise _undecodable(error, data) from error
        peak = max(float(wave.max(initial=0)), -float(wave.min(initial=0)))
        if not peak <= HIGHEST_PEAK:
            raise AudioError(
                f"The audio holds samples of up to {peak:.3g}: floats from -1 to 1 are expected."
                if np.isfinite(wave).all()
                else "The audio holds values that are no numbers (NaN or infinity)."
            )
        channels = max(channels, header.channels)
        cut_short = cut_short or is_cut_short(part, header, len(wave), left)
        waves.append(resample(wave, header.rate, rate))
        decoded += len(waves[-1])
        if decoded >= most:
            break
    if decoded == 0:
        raise EmptyAudioError("The audio has zero length: it decodes to no sample at all.")
    seconds = decoded / rate
    if decoded >= most:
        if max_seconds is None:
            raise AudioError(f"The audio is longer than {most // rate} s: cut it at the boundaries of the utterances.")
        seconds = max(seconds, extent(data).seconds)
    return Recording(waves[0] if len(waves) == 1 else np.concatenate(waves)[:most], rate, channels, seconds, cut_short)


def extent(data: bytes) -> AudioExtent:
    """What a file decodes to, by its bytes; its samples are not decoded.

    Raises:
        EmptyAudioError: the file has no byte.
        AudioError: the file is of another format, its header cannot be read, or states an implausible rate.
    """
    from mistere.data.recordings.decoding import FAILURES, opened

    seconds, stated, rate, channels = 0.0, 0.0, 0, 0
    for part in _layout(data, count=True).parts:
        try:
            with opened(part) as (header, _):
                _check_rate(header.rate)
        except FAILURES as error:
            raise _undecodable(error, data) from error
        seconds += header.frames / header.rate
        stated += max(header.frames, part.stated or 0) / header.rate
        rate, channels = max(rate, header.rate), max(channels, header.channels)
    return AudioExtent(seconds, rate, channels, stated)


def with_stated_length(data: bytes) -> bytes:
    """A file whose header states the length that it has.

    Returns:
        The file itself, or, if its header states no length or another one, the same samples as mono FLAC of 24 bits, or as WAV of
        32-bit floats if they have no equal in 24 bits. A file that is damaged or ends before its stated end is returned as it is.

    Raises:
        AudioError: the file is not accepted.
    """
    layout = _layout(data, count=True)
    extent(data)
    if layout.states_length or layout.cut_short:
        return data
    try:
        recording = decode_recording(data)
    except AudioError:
        return data
    return data if recording.cut_short else encode_exactly(recording.wave, recording.rate)


def _layout(data: bytes, *, count: bool = False) -> Layout:
    from mistere.data.recordings.formats import names
    from mistere.data.recordings.inspection import inspect
    from mistere.data.recordings.layout import MAX_PARTS

    if not data:
        raise EmptyAudioError("The audio is empty (0 bytes).")
    layout = inspect(data, count)
    if layout is None:
        raise AudioError(f"The audio does not decode (no {names()} file, or a damaged one; {len(data)} bytes).")
    if len(layout.parts) > MAX_PARTS:
        raise AudioError(f"The audio consists of more than {MAX_PARTS} joined files: at most as many are read.")
    return layout


def _undecodable(error: Exception, data: bytes) -> AudioError:
    reason = " ".join(str(getattr(error, "error_string", "") or error).split()).rstrip(".")
    return AudioError(f"The audio does not decode ({reason or 'unknown error'}; {len(data)} bytes).")


def _check_rate(rate: int) -> None:
    """Refuse implausible rates before anything is decoded."""
    from mistere.data.recordings.formats import RATES

    if rate not in RATES:
        raise AudioError(f"The audio claims {rate} samples a second: {RATES[0]} to {RATES[-1]} Hz are read.")


def encode_flac(wave: np.ndarray, rate: int) -> bytes:
    """Encode mono samples ``[N]`` as 24-bit FLAC, which keeps them to 1e-7."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_24")
    return buffer.getvalue()


def encode_exactly(wave: np.ndarray, rate: int) -> bytes:
    """Encode mono samples ``[N]`` without changing any: as 24-bit FLAC if that is possible, else as WAV of 32-bit floats."""
    import numpy as np
    import soundfile

    buffer = io.BytesIO()
    scaled = wave.astype(np.float64) * _STEPS
    fits = -_STEPS <= scaled.min() <= scaled.max() < _STEPS
    if rate <= _FLAC_RATE and fits and np.array_equal(scaled, np.rint(scaled)):
        # As integers of 32 bits, of which the upper 24 are kept: floats would be scaled by 2**23 - 1.
        soundfile.write(buffer, (scaled * 256).astype(np.int32), rate, format="FLAC", subtype="PCM_24")
    else:
        soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return without_time(buffer.getvalue())


def without_time(data: bytes) -> bytes:
    """A file that libsndfile has just written, without the time of writing, so that the same samples are the same bytes.

    It is in the chunk ``PEAK`` of a WAV file of floats: name, size, version, time (libsndfile, ``wavlike_write_peak_chunk``).
    """
    if not data.startswith(b"RIFF"):
        return data
    header = data[: data.index(b"data", 12)]
    if (start := header.find(b"PEAK")) < 0:
        return data
    return data[: start + 12] + bytes(4) + data[start + 16 :]


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
