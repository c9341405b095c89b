"""The facts of one recording: what its bytes decode to, in numbers; the samples are let go."""

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

LISTENED_SECONDS = 600.0
"""Of a longer recording only its beginning is decoded; its length is then what its header says."""
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)
"""What a WAV that was written in a stream says of its size."""


class Heard(NamedTuple):
    """Facts of one recording; None where a fact does not apply.

    Attributes:
        has_audio: the row has a recording, or at least names one.
        embedded: its bytes are in the table.
        non_empty: they are not nothing.
        decodes: they decode, to the end.
        rate: in Hz.
        channels: how many.
        seconds: duration.
        rms_dbfs: level.
        quiet: share of its 20 ms frames that are silent.
        clipped: share of its samples at full scale.
        dc_offset: absolute mean of its samples.
        sound: digest of its samples; none for silence, which is always the same.
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


def hear(data: bytes | None, path: str | None, silence_dbfs: float) -> Heard:
    """Facts of one row's recording.

    Args:
        data: the encoded file; None where the row has none.
        path: the name that the row gives it.
        silence_dbfs: below this level a frame is silent.
    """
    if data is None:
        return Heard(has_audio=True, embedded=False) if path else Heard()
    try:
        found = decode_recording(data, LISTENED_SECONDS)
    except EmptyAudioError:
        return Heard(True, True, False)
    except AudioError:
        return Heard(True, True, True, False)
    if _is_cut_short(data, found):
        return Heard(True, True, True, False)
    level = rms_dbfs(found.wave)
    seconds = len(found.wave) / found.rate
    return Heard(
        True,
        True,
        True,
        True,
        found.rate,
        found.channels,
        found.claimed_seconds if seconds > LISTENED_SECONDS else seconds,
        level,
        quiet_share(found.wave, found.rate, silence_dbfs),
        clipped_share(found.wave),
        abs(float(found.wave.mean())),
        None if level < silence_dbfs else _digest(found),
    )


def _is_cut_short(data: bytes, found: Recording) -> bool:
    """Whether less is there than the header says: a transfer or an export that broke off."""
    if data[:4] == b"RIFF":
        claimed = int.from_bytes(data[4:8], "little")
        return claimed not in _UNKNOWN_SIZES and claimed + 8 > len(data) + 1  # a last odd byte may go unpadded
    decoded = len(found.wave) / found.rate
    return decoded <= LISTENED_SECONDS and decoded < 0.98 * found.claimed_seconds - 0.05


def _digest(found: Recording) -> int:
    data = hashlib.blake2b(found.wave.tobytes(), digest_size=8, salt=found.rate.to_bytes(8, "big")).digest()
    return int.from_bytes(data, "big", signed=True)
