"""Convert a recording from the browser to the audio format that the endpoint accepts."""

from __future__ import annotations

from pathlib import Path

from mistere.data.audio import AudioError, decode, encode_flac, resample
from mistere.serving.protocol import MAX_UTTERANCE_SECONDS

_RATE = 16_000  # the speech encoders' sample rate; a higher one only makes the request larger


def take_recording(path: Path) -> tuple[bytes, float]:
    """Read a recording and delete its file.

    Args:
        path: a file of an accepted format.

    Returns:
        FLAC bytes (mono, at most 16 kHz) and the duration in seconds.

    Raises:
        AudioError: the audio cannot be decoded, is empty, or is too long.
    """
    try:
        data = path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
    return as_flac(data)


def as_flac(data: bytes) -> tuple[bytes, float]:
    """Convert encoded audio to mono FLAC of at most 16 kHz; also return its duration in seconds.

    Raises:
        AudioError: the audio cannot be decoded, is empty, or is too long.
    """
    wave, rate = decode(data, MAX_UTTERANCE_SECONDS)
    if len(wave) > MAX_UTTERANCE_SECONDS * rate:
        raise AudioError(f"The recording is too long: a turn takes at most {MAX_UTTERANCE_SECONDS:g} seconds.")
    seconds = len(wave) / rate
    if rate > _RATE:
        wave, rate = resample(wave, rate, _RATE).clip(-1.0, 1.0), _RATE
    return encode_flac(wave, rate), seconds
