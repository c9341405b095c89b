"""A recording as the browser hands it over → what the endpoint takes."""

from __future__ import annotations

from pathlib import Path

from mistere.data.audio import AudioError, decode_recording, encode_flac, resample

MOST_SECONDS = 30.0
_RATE = 16_000  # what the speech encoders hear; more would only make the request larger


def take_recording(path: Path) -> tuple[bytes, float]:
    """Read a recording and delete its file.

    Args:
        path: WAV, FLAC, OGG or MP3.

    Returns:
        FLAC, one channel, at most 16 kHz; and its length in seconds.

    Raises:
        AudioError: it does not decode, is empty, or is too long.
    """
    try:
        data = path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
    return as_flac(data)


def as_flac(data: bytes) -> tuple[bytes, float]:
    """An encoded file as FLAC of one channel and at most 16 kHz, and its length in seconds.

    Raises:
        AudioError: it does not decode, is empty, or is too long.
    """
    wave, rate, _, _ = decode_recording(data, MOST_SECONDS)
    if len(wave) > MOST_SECONDS * rate:
        raise AudioError(f"The recording is too long: a turn takes at most {MOST_SECONDS:g} seconds.")
    seconds = len(wave) / rate
    if rate > _RATE:
        wave, rate = resample(wave, rate, _RATE).clip(-1.0, 1.0), _RATE
    return encode_flac(wave, rate), seconds
