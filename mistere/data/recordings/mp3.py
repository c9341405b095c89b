"""MP3: the number of samples by the headers of the frames, and the tracks of joined files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from mistere.data.recordings.formats import MP3, tag_size
from mistere.data.recordings.layout import MAX_PARTS, Layout, Part

_RATES: Final = ((11025, 12000, 8000), (), (22050, 24000, 16000), (44100, 48000, 32000))
"""Hz, by version (0: 2.5, 2: 2, 3: 1) and index."""
_BITRATES: Final = {
    (True, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""kbit/s, by whether the version is 1, the layer's bits (3: I, 2: II, 1: III), and index."""
_LAYER_III: Final = 1
_TAGS: Final = (b"Xing", b"Info")
_HAS_FRAMES: Final = 1
_RESYNC: Final = 1024
"""Bytes of garbage behind which libsndfile finds no frame."""
_MOST_FRAMES: Final = 200_000
"""Frames that are counted, over an hour of audio: more are refused anyway."""
_ID3V1: Final = 128
_APE_HEADER: Final = 32


class _Frame(NamedTuple):
    """A frame's header: its start, its size in bytes, its samples, their rate, and where its tag of the encoder would be."""

    start: int
    size: int
    samples: int
    rate: int
    tag: int


@dataclass(slots=True)
class _Track:
    """The frames from one tag of an encoder to the next; ``tag`` is its position, ``sizes`` the least and greatest of a frame."""

    start: int
    rate: int
    tag: int | None = None
    count: int = 0
    samples: int = 0
    sizes: tuple[int, int] = (1 << 30, 0)

    def add(self, frame: _Frame) -> None:
        self.count += 1
        self.samples += frame.samples
        self.sizes = min(self.sizes[0], frame.size), max(self.sizes[1], frame.size)


def layout(data: bytes) -> Layout | None:
    """The parts of an MP3 file, one for each of joined files; None if it holds no two frames in a row."""
    tracks = _tracks(data)
    if not tracks:
        return None
    stops = [track.start for track in tracks[1:]] + [len(data)]
    parts, correct, cut_short = [], True, False
    for track, stop in zip(tracks, stops, strict=True):
        piece = data[track.start : stop]
        stated = _stated(piece, track)
        if stated is None:
            parts.append(_with_room(piece, track))
            # The frames of a constant bitrate differ by one byte of padding, and an estimate from the file's size is right.
            correct = correct and track.sizes[1] - track.sizes[0] <= 1
            continue
        if stated < track.count:
            piece = _with_count(piece, track)
        parts.append(Part(piece, track.samples))
        correct = correct and stated >= track.count
        lost = (stated - track.count) * track.samples / max(1, track.count)
        cut_short = cut_short or lost > 0.02 * track.samples + 0.05 * track.rate
    return Layout(MP3, tuple(parts), correct and len(parts) == 1, cut_short)


def _stated(piece: bytes, track: _Track) -> int | None:
    """The number of frames in the tag of a track; None if there is none."""
    if track.tag is None:
        return None
    at = track.tag - track.start
    flags, frames = (int.from_bytes(piece[field : field + 4], "big") for field in (at + 4, at + 8))
    return frames if flags & _HAS_FRAMES else None


def _with_count(piece: bytes, track: _Track) -> bytes:
    """A track whose tag states the number of frames that follow it: libsndfile stops at the stated number."""
    at = (track.tag or track.start) - track.start + 8
    return piece[:at] + track.count.to_bytes(4, "big") + piece[at + 4 :]


def _with_room(piece: bytes, track: _Track) -> Part:
    """A track behind a silent frame of the lowest bitrate.

    libsndfile estimates the length from the bitrate of the first frame, and stops there: with this one it stops at the end.
    """
    header = bytearray(piece[:4])
    header[1] |= 1  # no checksum
    header[2] = 0x10 | header[2] & 0x0D  # lowest bitrate, no padding
    frame = _header(bytes(header), 0)
    assert frame is not None
    return Part(bytes(header) + bytes(frame.size - len(header)) + piece, track.samples, skip=frame.samples)


def _tracks(data: bytes) -> list[_Track]:
    tracks: list[_Track] = []
    for frame in _frames(data):
        tagged = data[frame.tag : frame.tag + 4] in _TAGS
        if not tracks or tagged:
            if len(tracks) > MAX_PARTS:
                break
            tracks.append(_Track(frame.start, frame.rate, frame.tag if tagged else None))
        if not tagged:
            tracks[-1].add(frame)
    return tracks


def _frames(data: bytes) -> Iterator[_Frame]:
    """The frames in order; what lies between them, tags and a little garbage, is skipped."""
    at = garbage = number = 0
    while at + 4 <= len(data) and garbage <= _RESYNC and number < _MOST_FRAMES:
        frame = _header(data, at)
        if frame is not None and at + frame.size <= len(data):
            end = at + frame.size
            if (number and not garbage) or end + 4 > len(data) or _header(data, end) is not None:
                yield frame
                at, garbage, number = end, 0, number + 1
                continue
        skipped = _other_tag(data, at)
        following = at + skipped if skipped else data.find(b"\xff", at + 1)
        if following < 0:
            return
        garbage += 0 if skipped else following - at
        at = following


def _header(data: bytes, at: int) -> _Frame | None:
    """The frame whose header is at a position; None if there is none, or if its bitrate is free."""
    if data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    bitrate, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer == 0 or bitrate in (0, 15) or rate == 3:
        return None
    kilobits, hertz = _BITRATES[version == 3, layer][bitrate], _RATES[version][rate]
    if layer == 3:
        return _Frame(at, (12_000 * kilobits // hertz + padding) * 4, 384, hertz, at)
    samples = 576 if layer == _LAYER_III and version != 3 else 1152
    mono = data[at + 3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    tag = at + 4 + side if layer == _LAYER_III else at
    return _Frame(at, samples * 125 * kilobits // hertz + padding, samples, hertz, tag)


def _other_tag(data: bytes, at: int) -> int:
    """Size of the tag that begins at a position, bytes; 0 if there is none."""
    if data[at : at + 3] == b"TAG":
        return _ID3V1
    if data[at : at + 8] == b"APETAGEX":
        return _APE_HEADER + int.from_bytes(data[at + 12 : at + 16], "little")
    return tag_size(data, at)
