"""Decode Opus packets with the system's libopus, if it is there.

No package of the registry is fit for packets of strangers: wheels of ``av`` bring all of FFmpeg (100 MB, and codecs under the GPL),
``opuslib`` has no library, the one with it does not say which version it was built from, and libsndfile decodes whole files only. The
distribution's library (Debian: ``libopus0``) gets security updates, and four of its functions suffice.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from typing import Any, Final

from mistere.predictor.stream.messages import CloseCode, StreamError
from mistere.predictor.stream.turns import RATE, SAMPLE_BYTES

MAX_PACKET: Final = 8192
"""Bytes of a packet: 120 ms at more than the highest bit rate."""
_LONGEST: Final = RATE * 120 // 1000
"""Samples of the longest packet (RFC 6716, section 3.2)."""
_GAP: Final = RATE * 20 // 1000
"""Samples that stand for a packet that was lost or not sent."""


@cache
def _library() -> Any:
    """libopus; None if the system has none."""
    name = ctypes.util.find_library("opus")
    if name is None:
        return None
    library = ctypes.CDLL(name)
    library.opus_decoder_create.restype = ctypes.c_void_p
    library.opus_decoder_create.argtypes = (ctypes.c_int32, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
    library.opus_decoder_destroy.restype = None
    library.opus_decoder_destroy.argtypes = (ctypes.c_void_p,)
    library.opus_decode.restype = ctypes.c_int
    library.opus_decode.argtypes = (
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.POINTER(ctypes.c_int16),
        ctypes.c_int,
        ctypes.c_int,
    )
    return library


def has_opus() -> bool:
    """Whether Opus can be decoded here."""
    return _library() is not None


class OpusDecoder:
    """Decodes the packets of one channel, mono or stereo, to mono samples at 16 kHz.

    Raises:
        StreamError: the system has no libopus.
    """

    def __init__(self) -> None:
        self._state: int | None = None
        self._library = _library()
        if self._library is None:
            raise StreamError(
                CloseCode.UNSUPPORTED, "This server has no decoder of Opus: send pcm16, or install libopus0 there."
            )
        failure = ctypes.c_int()
        self._state = self._library.opus_decoder_create(RATE, 1, ctypes.byref(failure))
        if self._state is None:
            raise MemoryError(f"libopus gives no decoder ({failure.value})")
        self._samples = (ctypes.c_int16 * _LONGEST)()

    def decode(self, packet: bytes) -> bytes:
        """The samples of the next packet, signed 16-bit integers.

        Args:
            packet: of 2.5 to 120 ms; an empty one stands for 20 ms that were lost or not sent, and are concealed.

        Raises:
            StreamError: it is too large, or does not decode.
        """
        if len(packet) > MAX_PACKET:
            raise StreamError(
                CloseCode.TOO_LARGE, f"An Opus packet may have {MAX_PACKET} bytes; this one has {len(packet)}."
            )
        size = _LONGEST if packet else _GAP
        count = self._library.opus_decode(self._state, packet or None, len(packet), self._samples, size, 0)
        if count <= 0:
            raise StreamError(CloseCode.UNSUPPORTED, "An Opus packet does not decode.")
        return ctypes.string_at(self._samples, count * SAMPLE_BYTES)

    def __del__(self) -> None:
        if self._state is not None:
            self._library.opus_decoder_destroy(self._state)
            self._state = None
