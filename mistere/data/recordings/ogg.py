"""OGG: the links of a chained file, and whether their headers are complete.

libsndfile decodes only the first link. It leaks a few kilobytes for each file with truncated or damaged headers, so such a file must
not be opened: delete that check when libsndfile no longer leaks.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from mistere.data.recordings.formats import OGG
from mistere.data.recordings.layout import MAX_PARTS, Layout, Part

_PAGE: Final = struct.Struct("<4sBBqIIIB")
_CONTINUED: Final = 1
_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_VORBIS: Final = (b"\x01vorbis\x00\x00\x00\x00", b"\x03vorbis", b"\x05vorbis")
_OPUS: Final = (b"OpusHead", b"OpusTags")
_PAGE_LIMIT: Final = 64
"""The most pages for headers, 4 MiB: enough for a picture in the tags."""
_FIRST_PAGE: Final = re.compile(rb"OggS\x00[\x02\x06]")
"""The beginning of a stream's first page."""


def layout(data: bytes) -> Layout | None:
    """The parts of an OGG file, one for each link; None if one of them does not begin with the headers of Vorbis or Opus."""
    starts = [match.start() for match in _FIRST_PAGE.finditer(data, 1)][: MAX_PARTS + 1]
    links = [data[start:stop] for start, stop in zip([0, *starts], [*starts, len(data)], strict=True)]
    if not all(map(has_whole_headers, links)):
        return None
    return Layout(OGG, tuple(map(Part, links)), states_length=len(links) == 1)


def has_whole_headers(file: bytes) -> bool:
    """Whether a file begins with all headers of one Vorbis or Opus stream, with correct checksums."""
    expected: tuple[bytes, ...] = ()
    for number, packet in enumerate(_packets(file)):
        expected = expected or next((codec for codec in (_VORBIS, _OPUS) if packet.startswith(codec[0])), ())
        if not expected or not packet.startswith(expected[number]):
            return False
        if number + 1 == len(expected):
            return True
    return False


def _packets(file: bytes) -> Iterator[bytes]:
    """Packets in order, up to the first page that is damaged or belongs to another stream."""
    partial = bytearray()
    offset, serial = 0, -1
    for number in range(_PAGE_LIMIT):
        if offset + _PAGE.size > len(file):
            return
        capture, version, flags, _, stream, sequence, checksum, count = _PAGE.unpack_from(file, offset)
        lacing = file[offset + _PAGE.size : offset + _PAGE.size + count]
        start = offset + _PAGE.size + count
        page = file[offset : start + sum(lacing)]
        serial = stream if number == 0 else serial
        valid = (capture, version, stream, sequence) == (b"OggS", 0, serial, number)
        if not valid or len(page) < start - offset + sum(lacing) or _checksum(page) != checksum:
            return
        if bool(flags & _CONTINUED) != bool(partial):
            return
        for size in lacing:
            partial += file[start : start + size]
            start += size
            if size < 255:
                yield bytes(partial)
                partial.clear()
        offset = start


def _checksum(page: bytes) -> int:
    """OGG's checksum: CRC-32 with the bits of every input byte and of the result reversed."""
    blank = page[:22] + bytes(4) + page[26:]
    value = zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")
