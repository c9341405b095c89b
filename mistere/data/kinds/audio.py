"""Recordings: encoded files of an accepted format."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mistere.common.modalities import SPEECH
from mistere.data.audio import AudioError, decode, encode_flac, extent, resample, without_time
from mistere.data.kinds.kind import TOKENS_PER_SECOND, Degradation, Kind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mistere.config.encoder import EncoderConfig, ExtractionSettings

RATE = 16000
"""Of the samples that an encoder gets, in Hz."""
TELEPHONE_RATE = 8000
_BAND = (300.0, 3400.0)


def speech_samples(data: bytes, settings: EncoderConfig) -> np.ndarray:
    """Mono samples float32 ``[N]`` at 16 kHz, cropped to ``max_seconds`` and padded with silence to ``min_seconds``.

    With ``crop: start`` decoding stops after ``max_seconds``, so a recording of ten minutes costs no more than one of
    ``max_seconds``. The other crops need the whole recording.
    """
    return crop_and_pad(*decode(data, settings.max_seconds if settings.crop == "start" else None), settings)


def crop_and_pad(wave: np.ndarray, rate: int, settings: EncoderConfig) -> np.ndarray:
    """Crop, resample and pad decoded samples as :func:`speech_samples` does; ``wave`` holds at least what that decodes."""
    import numpy as np

    limit = int(settings.max_seconds * rate) + 1
    if len(wave) > limit:
        begin = {"start": 0, "middle": (len(wave) - limit) // 2, "end": len(wave) - limit}[settings.crop]
        wave = wave[begin : begin + limit]
    wave = resample(wave, rate, RATE)[: int(settings.max_seconds * RATE)]
    missing = int(settings.min_seconds * RATE) - len(wave)
    return np.pad(wave, (0, missing)) if missing > 0 else wave


def noisy(wave: np.ndarray, decibels: float, draw: np.random.Generator) -> np.ndarray:
    """Samples ``[N]`` with white noise ``decibels`` below their own level (root mean square)."""
    import numpy as np

    level = float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))
    noise = draw.standard_normal(len(wave)) * level * 10 ** (-decibels / 20)
    return (wave + noise).astype(np.float32)


def telephone_band(wave: np.ndarray, rate: int) -> np.ndarray:
    """Samples at 8 kHz, band-limited to 300 to 3400 Hz like a telephone line (zero-phase Butterworth filter of order 4)."""
    import numpy as np
    from scipy.signal import butter, sosfiltfilt

    narrow = resample(wave, rate, TELEPHONE_RATE)
    filter_ = butter(4, _BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    padding = min(len(narrow) - 1, 3 * (2 * len(filter_) + 1))
    return np.asarray(sosfiltfilt(filter_, narrow, padlen=max(0, padding)), np.float32)


def encoded(wave: np.ndarray, rate: int, subtype: str) -> bytes:
    """Mono samples ``[N]``, floats or int16, as a WAV file of one of soundfile's subtypes.

    Floats are cut off at ±1, unless the subtype is ``FLOAT``.
    """
    import numpy as np
    import soundfile

    # libsndfile reads beyond its table of µ-law: other samples, or a segmentation fault.
    if subtype != "FLOAT" and wave.dtype.kind == "f":
        wave = np.clip(np.nan_to_num(wave), -1.0, 1.0)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype=subtype)
    return without_time(buffer.getvalue())


def _degradation(words: str, change: Callable[[np.ndarray, int, np.random.Generator], bytes]) -> Degradation:
    def degrade(audio: bytes, draw: np.random.Generator) -> bytes:
        try:
            wave, rate = decode(audio)
        except AudioError:
            return audio
        return change(wave, rate, draw)

    return Degradation(words, degrade)


def _with_noise(decibels: float, wave: np.ndarray, rate: int, draw: np.random.Generator) -> bytes:
    return encoded(noisy(wave, decibels, draw), rate, "FLOAT")


def _telephone_line(subtype: str, wave: np.ndarray, rate: int, draw: np.random.Generator) -> bytes:
    return encoded(telephone_band(wave, rate), TELEPHONE_RATE, subtype)


class Audio(Kind):
    """The bytes of an encoded file, in a struct of ``bytes`` and ``path``: the Hugging Face ``Audio`` form."""

    name = "audio"
    stored_as = "a struct with the encoded file in its field 'bytes'"
    batch_positions = 1
    """Speech is long enough to be computed one utterance at a time."""
    size_setting = "max_seconds"
    timed = True
    degradations = {  # noqa: RUF012
        "noise_20db": _degradation("noise 20 dB below the speech", partial(_with_noise, 20.0)),
        "noise_10db": _degradation("noise 10 dB below the speech", partial(_with_noise, 10.0)),
        "noise_0db": _degradation("noise as loud as the speech", partial(_with_noise, 0.0)),
        "telephone": _degradation("a telephone's band, 300 to 3400 Hz", partial(_telephone_line, "FLOAT")),
        "telephone_codec": _degradation("a telephone's band and codec (G.711)", partial(_telephone_line, "ULAW")),
    }

    def column(self, modality: str) -> str:
        return "audio" if modality == SPEECH else modality

    def leaf(self, modality: str) -> str:
        return f"{self.column(modality)}.bytes"

    def arrow_type(self) -> pa.DataType:
        import pyarrow as pa

        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def fits(self, column_type: pa.DataType) -> bool:
        from pyarrow import types

        if not types.is_struct(column_type) or column_type.get_field_index("bytes") < 0:
            return False
        inner = column_type.field("bytes").type
        return bool(types.is_binary(inner) or types.is_large_binary(inner) or types.is_null(inner))

    def read(self, column: pa.Array) -> list[Any]:
        return [(cell or {}).get("bytes") or None for cell in column.to_pylist()]

    def write(self, cell: bytes) -> dict[str, Any]:
        return {"bytes": cell, "path": None}

    def content(self, cell: bytes, context: Sequence[str] = ()) -> Iterable[bytes]:
        return [cell]

    def made_up(self, turn: int, width: int | None = None) -> bytes:
        """A tone of a second that swells and fades, as FLAC."""
        import numpy as np

        time = np.arange(RATE) / RATE
        return encode_flac((0.2 * np.sin(np.pi * time) * np.sin(2 * np.pi * 180 * (turn + 1) * time)), RATE)

    def problem(self, cell: bytes, *, thorough: bool = False) -> str:
        try:
            if thorough:
                decode(cell)
            else:
                extent(cell)
        except AudioError as error:
            return str(error)
        return ""

    def encoder_input(self, cell: bytes, settings: EncoderConfig, context: Sequence[str] = ()) -> np.ndarray:
        return speech_samples(cell, settings)

    def batch_budget(self, extraction: ExtractionSettings, rate: float) -> float:
        return extraction.batch_seconds * rate

    def seconds(self, length: float) -> float:
        return length

    def tokens(self, cell: bytes, settings: EncoderConfig) -> int:
        return int(min(extent(cell).stated, settings.max_seconds) * TOKENS_PER_SECOND) + 1

    def received(self, row: Sequence[bytes]) -> bytes | None:
        return row[0] or None

    def sent(self, cell: bytes) -> list[bytes]:
        return [cell]
