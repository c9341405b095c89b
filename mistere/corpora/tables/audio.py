"""The audio cells of a table: a path, an encoded file in any of the usual forms, or samples with their rate.

A table is read twice: first without audio, where :func:`mark` only says what each cell holds; then row by row, where
:func:`content` gives the encoded file.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistere.common.errors import DataError
from mistere.corpora.media import is_media
from mistere.data.audio import without_time
from mistere.data.recordings.formats import names

if TYPE_CHECKING:
    import numpy as np

CONTENT_FIELDS = ("bytes", "array", "data", "samples", "waveform", "content", "base64")
"""Fields of an audio struct that may hold the recording, the first one that is filled."""
RATE_FIELDS = ("sampling_rate", "sample_rate", "samplerate", "rate", "sr")
_EXPECTED = "a path, the bytes of an audio file, {bytes, path}, {array, sampling_rate} or {data} is expected"
_BASE64 = re.compile(r"[A-Za-z0-9+/\-_]+={0,2}")
_FEWEST_BASE64 = 64
_HIGHEST_PEAK = 4.0
"""Resampling overshoots full scale a little; samples far above it have another scale."""
_MOST_CHANNELS = 8
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 384_000


@dataclass(frozen=True, slots=True)
class Mark:
    """What a cell holds, without the recording.

    Attributes:
        embedded: whether it holds the recording.
        path: the file that it names, if it does not hold the recording.
    """

    embedded: bool
    path: Any = None


def mark(value: Any, where: str) -> Mark:
    """What a cell holds.

    Raises:
        DataError: its form is unclear.
    """
    if value is None or (isinstance(value, float) and value != value):
        return Mark(embedded=False)
    if isinstance(value, (bytes, bytearray)):
        return Mark(embedded=True)
    if isinstance(value, str):
        return Mark(embedded=True) if holds_base64(value) else Mark(embedded=False, path=value)
    if isinstance(value, Mapping):
        if content_field(value) is not None:
            return Mark(embedded=True)
        check_fields(tuple(value), where)
        return Mark(embedded=False, path=value.get("path"))
    raise DataError(f"{where}: audio is {type(value).__name__}, not text: {_EXPECTED}.")


def content_field(cell: Mapping[str, Any]) -> str | None:
    """The field of a struct that holds the recording; None if none is filled."""
    return next((name for name in CONTENT_FIELDS if cell.get(name) is not None), None)


def check_fields(names: tuple[str, ...], where: str) -> None:
    """Refuse a struct without any field of a known meaning.

    Raises:
        DataError: there is none.
    """
    if not {*CONTENT_FIELDS, "path"} & set(names):
        fields = ", ".join(names)[:80]
        raise DataError(
            f"{where}: audio is a struct of {fields or 'nothing'}, whose meaning is not known: {_EXPECTED}."
        )


def holds_base64(text: str) -> bool:
    """Whether a text is an encoded file in base64, or a data URI, and no path."""
    if text.startswith("data:"):
        return True
    packed = "".join(text[: 4 * _FEWEST_BASE64].split())
    if len(packed) < _FEWEST_BASE64 or not _BASE64.fullmatch(packed):
        return False
    return is_media(base64.b64decode(packed[:_FEWEST_BASE64].replace("-", "+").replace("_", "/")))


def content(value: Any, where: str) -> bytes | None:
    """The encoded file of a cell; None if the cell does not hold the recording.

    Raises:
        DataError: it is empty, or is neither an audio file nor samples of a known rate and scale.
    """
    if isinstance(value, str):
        return _decoded(value, where) if holds_base64(value) else None
    if isinstance(value, (bytes, bytearray)):
        return _filled(bytes(value), where)
    if not isinstance(value, Mapping):
        return None
    field = content_field(value)
    if field is None:
        return None
    recording = value[field]
    if isinstance(recording, str):
        return _decoded(recording, where)
    if isinstance(recording, (bytes, bytearray)):
        data = _filled(bytes(recording), where)
        return data if field == "bytes" else _known(data, f"{where}: the field {field!r} of audio")
    return _encoded(recording, value, field, where)


def _filled(data: bytes, where: str) -> bytes:
    if not data:
        raise DataError(f"{where}: the audio is empty (0 bytes): leave the cell empty, or export the recording again.")
    return data


def _decoded(text: str, where: str) -> bytes:
    packed = "".join(text.split())
    if packed.startswith("data:"):
        head, _, packed = packed.partition(",")
        if not head.endswith(";base64"):
            raise DataError(f"{where}: audio is a data URI without base64: write data:audio/wav;base64,… there.")
    try:
        packed = packed.replace("-", "+").replace("_", "/").rstrip("=")
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: audio is neither a path nor base64 ({error}).") from error
    return _known(_filled(data, where), f"{where}: the base64 of audio")


def _known(data: bytes, what: str) -> bytes:
    """Refuse bytes that are no audio file, such as raw samples."""
    if not is_media(data):
        raise DataError(
            f"{what} holds no {names()} file, nor one that ffmpeg reads: encode the recordings as one of these."
        )
    return data


def _encoded(samples: Any, cell: Mapping[str, Any], field: str, where: str) -> bytes:
    """Samples as a file that keeps them: FLAC where they are of 16 or 24 bits, WAV with floats otherwise."""
    import numpy as np
    import soundfile

    rate = _rate(cell, field, where)
    wave = _frames(samples, field, where)
    if wave.dtype == np.int16:
        exact, form, subtype = wave, "FLAC", "PCM_16"
    else:
        scaled = wave.astype(np.float64)
        peak = float(np.abs(scaled).max())
        highest = 1.0 if wave.dtype.kind == "i" else _HIGHEST_PEAK
        if not peak <= highest:  # also NaN and infinity
            raise DataError(
                f"{where}: audio has samples up to {peak:g} in {field!r}: floats from -1 to 1, or integers of 16 bits, are expected."
            )
        exact, form, subtype = scaled.astype(np.float32), "WAV", "FLOAT"
        whole = np.rint(scaled * 32768)
        if whole.max() < 32768 and whole.min() >= -32768 and np.array_equal(whole, scaled * 32768):
            exact, form, subtype = whole.astype(np.int16), "FLAC", "PCM_16"
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, exact, rate, format=form, subtype=subtype)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise DataError(f"{where}: the samples of audio cannot be encoded at {rate} Hz ({error}).") from error
    return without_time(buffer.getvalue())


def _rate(cell: Mapping[str, Any], field: str, where: str) -> int:
    rate = next((cell[name] for name in RATE_FIELDS if cell.get(name) is not None), None)
    if isinstance(rate, (int, float)) and _LOWEST_RATE <= rate <= _HIGHEST_RATE and rate == int(rate):
        return int(rate)
    raise DataError(
        f"{where}: audio has samples in {field!r}, but its sampling rate is {str(rate)[:20]}: add it as sampling_rate, in Hz, from "
        f"{_LOWEST_RATE} to {_HIGHEST_RATE}."
    )


def _frames(samples: Any, field: str, where: str) -> np.ndarray:
    """Samples as ``[N]`` or ``[N, channels]``; ``datasets`` writes several channels as ``[channels, N]``."""
    import numpy as np

    try:
        wave = np.asarray(samples)
        if wave.dtype == object:
            wave = np.asarray([np.asarray(channel) for channel in samples])
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: the field {field!r} of audio is no array of samples ({error}).") from error
    if wave.dtype.kind not in "if" or wave.ndim not in (1, 2):
        raise DataError(f"{where}: the field {field!r} of audio is no array of samples; {_EXPECTED}.")
    if wave.size == 0:
        raise DataError(
            f"{where}: the audio is empty (no sample): leave the cell empty, or export the recording again."
        )
    if wave.ndim == 2:
        if min(wave.shape) > _MOST_CHANNELS or wave.shape[0] == wave.shape[1]:
            raise DataError(
                f"{where}: the samples of audio have the shape {wave.shape}: [samples] or [channels, samples] is expected."
            )
        wave = wave.T if wave.shape[0] < wave.shape[1] else wave
        wave = wave[:, 0] if wave.shape[1] == 1 else wave
    return np.ascontiguousarray(wave)
