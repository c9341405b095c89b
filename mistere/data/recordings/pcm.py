"""WAV, Wave64, AIFF, AU and CAF: sizes that were never written, are outdated, or state more than follows, are corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from mistere.data.recordings.formats import AIFF, AU, CAF, W64, WAV, AudioFormat, format_of
from mistere.data.recordings.layout import MAX_PARTS, Layout, Part

_PLACEHOLDER: Final = 0x7FFF_0000
"""A size from here on that exceeds the file was never known: sox writes 0x7FFFF000 to a pipe, ffmpeg 0xFFFFFFFF."""
_TRAILER: Final = 4096
"""The most bytes behind the samples that are taken for a tag of an unknown kind; more are samples that the size leaves out."""
_CHUNK, _CAF_CHUNK, _W64_CHUNK = 8, 12, 24
_W64_DATA: Final = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_MOST_CHUNKS: Final = 1000
_UINT32: Final = 0xFFFF_FFFF

_Order = Literal["little", "big"]


class _Samples(NamedTuple):
    """The samples of a file.

    Attributes:
        end: where they end.
        known: whether the stated size says so.
        cut_short: whether the file ends before the stated end.
        following: where a joined file begins; None if there is none.
    """

    end: int
    known: bool = True
    cut_short: bool = False
    following: int | None = None


def wav_layout(data: bytes) -> Layout:
    """The parts of a WAV file (RIFF, RIFX or RF64)."""
    return _layout(WAV, _wav, data)


def aiff_layout(data: bytes) -> Layout:
    """The parts of an AIFF or AIFF-C file."""
    return _layout(AIFF, _aiff, data)


def au_layout(data: bytes) -> Layout:
    """The parts of an AU file, whose size may be stated as unknown."""
    return _layout(AU, _au, data)


def caf_layout(data: bytes) -> Layout:
    """The parts of a CAF file, whose size may be stated as unknown."""
    return _layout(CAF, _caf, data)


def w64_layout(data: bytes) -> Layout:
    """The parts of a Wave64 file, whose chunks have names of 16 bytes and sizes of 8, which count the whole chunk."""
    return _layout(W64, _w64, data)


def _layout(kind: AudioFormat, read: Callable[[bytes], tuple[bytes, _Samples]], data: bytes) -> Layout:
    """One part for each of joined files; ``read`` corrects the first of those that it gets."""
    parts: list[Part] = []
    known, cut_short = True, False
    while len(parts) <= MAX_PARTS:
        part, samples = read(data)
        parts.append(Part(part))
        known, cut_short = known and samples.known, cut_short or samples.cut_short
        if samples.following is None:
            break
        data = data[samples.following :]
    return Layout(kind, tuple(parts), known and len(parts) == 1, cut_short)


def _wav(data: bytes) -> tuple[bytes, _Samples]:
    order: _Order = "big" if data.startswith(b"RIFX") else "little"
    chunk = _chunk(data, b"data", order)
    if chunk is None:
        return data, _Samples(len(data))
    at, size, before = chunk
    first, long_chunk, stated = at + _CHUNK, before.get(b"ds64"), size
    if size == _UINT32 and long_chunk is not None:
        stated = int.from_bytes(data[long_chunk + 16 : long_chunk + 24], order)
    samples = _in_chunks(data, first, stated, order)
    whole = int.from_bytes(data[4:8], order)
    if whole < _PLACEHOLDER and whole + _CHUNK > len(data) + 1:  # an odd last byte may go unpadded
        samples = samples._replace(cut_short=True)
    if size == samples.end - first:
        return data[: samples.following], samples
    fixed = bytearray(data[: samples.end])
    if long_chunk is not None:
        fixed[:4], fixed[long_chunk : long_chunk + 4] = b"RIFF", b"JUNK"
    fixed[4:8] = (len(fixed) - _CHUNK).to_bytes(4, order)
    fixed[at + 4 : at + 8] = (samples.end - first).to_bytes(4, order)
    return bytes(fixed), samples


def _aiff(data: bytes) -> tuple[bytes, _Samples]:
    chunk = _chunk(data, b"SSND", "big")
    if chunk is None:
        return data, _Samples(len(data))
    at, size, before = chunk
    first, common = at + _CHUNK, before.get(b"COMM")
    samples = _in_chunks(data, first, size, "big")
    if size == samples.end - first:
        return data[: samples.following], samples
    fixed = bytearray(data[: samples.end])
    fixed[4:8] = (len(fixed) - _CHUNK).to_bytes(4, "big")
    fixed[at + 4 : at + 8] = (samples.end - first).to_bytes(4, "big")
    if common is not None:
        channels, bits = (int.from_bytes(data[common + field : common + field + 2], "big") for field in (8, 14))
        frames = (samples.end - first - 8) // max(1, channels * -(-bits // 8))
        fixed[common + 10 : common + 14] = max(0, frames).to_bytes(4, "big")
    return bytes(fixed), samples


def _chunk(data: bytes, wanted: bytes, order: _Order) -> tuple[int, int, dict[bytes, int]] | None:
    """Where a chunk of a WAV or AIFF file begins, its stated size, and where the chunks before it begin, by name; None without it."""
    at, before = 12, dict[bytes, int]()
    for _ in range(_MOST_CHUNKS):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + _CHUNK], order)
        if name == wanted:
            return (at, size, before) if at + _CHUNK <= len(data) else None
        before[name] = at
        at += _CHUNK + size + size % 2
    return None


def _au(data: bytes) -> tuple[bytes, _Samples]:
    order: _Order = "big" if data.startswith(b".snd") else "little"
    first, size = int.from_bytes(data[4:8], order), int.from_bytes(data[8:12], order)
    if first > len(data):
        return data, _Samples(len(data))
    samples = _before_tag(data, first, size, AU)
    if size == samples.end - first:
        return data[: samples.following], samples
    return data[:8] + (samples.end - first).to_bytes(4, order) + data[12 : samples.end], samples


def _caf(data: bytes) -> tuple[bytes, _Samples]:
    at = 8
    for _ in range(_MOST_CHUNKS):
        size = int.from_bytes(data[at + 4 : at + _CAF_CHUNK], "big")
        if data[at : at + 4] == b"data":
            break
        at += _CAF_CHUNK + size
    else:
        return data, _Samples(len(data))
    first = at + _CAF_CHUNK
    if first > len(data):
        return data, _Samples(len(data))
    samples = _in_chunks(data, first, size, "big", width=8)
    if size == samples.end - first:
        return data[: samples.following], samples
    return data[: at + 4] + (samples.end - first).to_bytes(8, "big") + data[first : samples.end], samples


def _w64(data: bytes) -> tuple[bytes, _Samples]:
    at = 40
    for _ in range(_MOST_CHUNKS):
        size = int.from_bytes(data[at + 16 : at + 24], "little")
        if data[at : at + 16] == _W64_DATA:
            break
        at += max(_W64_CHUNK, -(-size // 8) * 8)
    else:
        return data, _Samples(len(data))
    first, size = at + _W64_CHUNK, max(0, size - _W64_CHUNK)
    if first > len(data):
        return data, _Samples(len(data))
    samples = _before_tag(data, first, size, W64)
    if size == samples.end - first:
        return data[: samples.following], samples
    fixed = bytearray(data[: samples.end])
    fixed[16:24] = len(fixed).to_bytes(8, "little")
    fixed[at + 16 : at + 24] = (len(fixed) - at).to_bytes(8, "little")
    return bytes(fixed), samples


def _in_chunks(data: bytes, first: int, size: int, order: _Order, width: int = 4) -> _Samples:
    """The samples of a chunk, which further chunks or a joined file may follow.

    Args:
        data: the file.
        first: where the samples begin.
        size: their stated size.
        order: the order of the bytes of numbers.
        width: the bytes of a chunk's size; with 4, a chunk of an odd size is padded.
    """
    if size > len(data) - first:
        return _cut_short(data) if size < _PLACEHOLDER else _until_joined(data, first)
    behind = at = first + size + (size % 2 if width == 4 else 0)
    for _ in range(_MOST_CHUNKS):
        content = at + 4 + width
        if content > len(data):
            return _Samples(first + size)
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : content], order)
        if format_of(data[at : at + 12]) in (WAV, AIFF, CAF):
            return _Samples(first + size, following=at)
        if not all(32 <= byte < 127 for byte in name) or content + length > len(data):
            break
        at = content + length + (length % 2 if width == 4 else 0)
    if size and (len(data) - behind <= _TRAILER or not data[behind:].strip(b"\0")):
        return _Samples(first + size)
    return _until_joined(data, first)


def _before_tag(data: bytes, first: int, size: int, kind: AudioFormat) -> _Samples:
    """Samples that a joined file or a short tag may follow."""
    end = first + size
    if end > len(data):
        return _cut_short(data) if size < _PLACEHOLDER else _Samples(len(data), known=False)
    joined = -(-end // 8) * 8 if kind is W64 else end
    if format_of(data[joined : joined + 16]) is kind:
        return _Samples(end, following=joined)
    if size and len(data) - end <= _TRAILER:
        return _Samples(end)
    return _Samples(len(data), known=end == len(data))


def _cut_short(data: bytes) -> _Samples:
    return _Samples(len(data), cut_short=True)


def _until_joined(data: bytes, first: int) -> _Samples:
    """Samples of unknown number: up to the end, or to the next file."""
    at = data.find(data[:4], first)
    while at >= 0 and data[at + 8 : at + 12] != data[8:12]:
        at = data.find(data[:4], at + 1)
    return _Samples(len(data), known=False) if at < 0 else _Samples(at, known=False, following=at)
