"""Ogg Opus files whose bytes depend on their audio alone.

libsndfile gives every Ogg stream a random serial number, so the same corpus would differ with each build. The serial only has to be
unique within a file, so this module sets it, and recomputes the checksum of every page (RFC 3533, section 6).
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray

_COMPRESSION = 0.945
"""libsndfile's scale from 256 kbit/s (0) to 6 kbit/s (1): about 20 kbit/s, wideband speech without audible loss."""

_SERIAL_OFFSET, _CRC_OFFSET, _SEGMENTS_OFFSET = 14, 22, 26
_POLYNOMIAL = 0x04C11DB7


def encode(audio: NDArray[np.float32], sample_rate: int, serial: int) -> bytes:
    """Encode mono audio ``[N]`` within -1 to 1 as an Ogg Opus file with the given stream serial number."""
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer,
        mode="w",
        samplerate=sample_rate,
        channels=1,
        format="OGG",
        subtype="OPUS",
        compression_level=_COMPRESSION,
    ) as file:
        file.write(audio)
    return with_serial(buffer.getvalue(), serial)


def with_serial(ogg: bytes, serial: int) -> bytes:
    """The same Ogg file with another stream serial number and valid page checksums.

    Raises:
        ValueError: the bytes are not a sequence of Ogg pages.
    """
    pages = bytearray(ogg)
    start = 0
    while start < len(pages):
        if pages[start : start + 4] != b"OggS":
            raise ValueError(f"no Ogg page at byte {start}")
        segments = pages[start + _SEGMENTS_OFFSET]
        body = start + _SEGMENTS_OFFSET + 1 + segments
        end = body + sum(pages[start + _SEGMENTS_OFFSET + 1 : body])
        struct.pack_into("<I", pages, start + _SERIAL_OFFSET, serial & 0xFFFFFFFF)
        struct.pack_into("<I", pages, start + _CRC_OFFSET, 0)
        struct.pack_into("<I", pages, start + _CRC_OFFSET, page_checksum(pages[start:end]))
        start = end
    return bytes(pages)


def page_checksum(page: bytes | bytearray) -> int:
    """Ogg's CRC-32 (not reflected, no inversion) of a page whose own checksum field is zero."""
    crc = 0
    for byte in page:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _TABLE[(crc >> 24) ^ byte]
    return crc


def _table_entry(index: int) -> int:
    remainder = index << 24
    for _ in range(8):
        remainder = ((remainder << 1) ^ (_POLYNOMIAL if remainder & 0x80000000 else 0)) & 0xFFFFFFFF
    return remainder


_TABLE = tuple(_table_entry(index) for index in range(256))
