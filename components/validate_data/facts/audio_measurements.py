"""Acoustic measurements of one recording; the decoded samples are discarded."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from mistere.data.audio import (
    AudioError,
    EmptyAudioError,
    Recording,
    clipped_share,
    decode_recording,
    quiet_share,
    rms_dbfs,
)

DECODED_SECONDS = 600.0
"""Only the beginning of a longer recording is decoded; its duration is then that of all its bytes."""


class AudioMeasurements(NamedTuple):
    """Measurements of one recording; None where one does not apply.

    Attributes:
        has_audio: the row has a recording, or at least names one.
        embedded: its bytes are in the table.
        non_empty: it has bytes.
        decodes: it decodes, to its end.
        rate: in Hz.
        channels: number of channels.
        seconds: duration in s.
        rms_dbfs: RMS level in dBFS.
        quiet: share of its 20 ms frames that are silent.
        clipped: share of its samples at full scale.
        dc_offset: absolute mean of its samples.
        sound: digest of its samples; None for silence, which is the same in every recording.
    """

    has_audio: bool = False
    embedded: bool | None = None
    non_empty: bool | None = None
    decodes: bool | None = None
    rate: int | None = None
    channels: int | None = None
    seconds: float | None = None
    rms_dbfs: float | None = None
    quiet: float | None = None
    clipped: float | None = None
    dc_offset: float | None = None
    sound: int | None = None


def measure_audio(data: bytes | None, path: str | None, silence_dbfs: float) -> AudioMeasurements:
    """Measure one row's recording.

    Args:
        data: the encoded file; None if the row has none.
        path: the name that the row gives it.
        silence_dbfs: below this level a frame is silent.
    """
    if data is None:
        return AudioMeasurements(has_audio=True, embedded=False) if path else AudioMeasurements()
    try:
        recording = decode_recording(data, DECODED_SECONDS)
    except EmptyAudioError:
        return AudioMeasurements(True, True, False)
    except AudioError:
        return AudioMeasurements(True, True, True, False)
    if recording.cut_short:
        return AudioMeasurements(True, True, True, False)
    level = rms_dbfs(recording.wave)
    return AudioMeasurements(
        True,
        True,
        True,
        True,
        recording.rate,
        recording.channels,
        recording.seconds,
        level,
        quiet_share(recording.wave, recording.rate, silence_dbfs),
        clipped_share(recording.wave),
        abs(float(recording.wave.mean())),
        None if level < silence_dbfs else _digest(recording),
    )


def _digest(recording: Recording) -> int:
    data = hashlib.blake2b(recording.wave.tobytes(), digest_size=8, salt=recording.rate.to_bytes(8, "big")).digest()
    return int.from_bytes(data, "big", signed=True)
