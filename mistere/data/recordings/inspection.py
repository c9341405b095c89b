"""Find the parts of a recording's file, in any accepted format."""

from __future__ import annotations

from mistere.data.recordings import flac, mp3, ogg, pcm
from mistere.data.recordings.formats import AIFF, AU, CAF, FLAC, MP3, OGG, W64, WAV, format_of, tag_size
from mistere.data.recordings.layout import Layout

_LAYOUTS = {
    WAV: pcm.wav_layout,
    W64: pcm.w64_layout,
    AIFF: pcm.aiff_layout,
    AU: pcm.au_layout,
    CAF: pcm.caf_layout,
    FLAC: flac.layout,
    OGG: ogg.layout,
    MP3: mp3.layout,
}


def inspect(data: bytes, count: bool = False) -> Layout | None:
    """The parts of an encoded file; None if its format is not accepted.

    Args:
        data: the file.
        count: whether the numbers of frames and ``states_length`` are needed, which takes time for FLAC.
    """
    content = _without_tag(data)
    kind = format_of(content)
    return None if kind is None else flac.counted_layout(content) if count and kind is FLAC else _LAYOUTS[kind](content)


def inspect_again(data: bytes) -> Layout | None:
    """The parts of a file that does not decode as :func:`inspect` says; None if there is no other way."""
    content = _without_tag(data)
    return flac.exact_layout(content) if format_of(content) is FLAC else None


def _without_tag(data: bytes) -> bytes:
    start = 0
    while size := tag_size(data, start):
        start += size
    return data[start:]
