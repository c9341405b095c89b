"""The table of accepted audio, for imports, validation, training and the endpoint."""

from __future__ import annotations

from typing import Final, NamedTuple

MAX_CHANNELS: Final = 1024
"""The most channels that libsndfile reads; they are mixed down to their mean."""
RATES: Final = range(1_000, 384_001)
"""Accepted sample rates, Hz."""


class AudioFormat(NamedTuple):
    """A row of the table.

    Attributes:
        name: the format.
        extension: of its files, without the dot.
        codecs: the accepted codecs.
    """

    name: str
    extension: str
    codecs: tuple[str, ...]


_PCM: Final = ("8 to 32-bit PCM", "32 and 64-bit float", "µ-law", "A-law")
WAV: Final = AudioFormat("WAV", "wav", (*_PCM, "IMA and Microsoft ADPCM", "GSM 6.10"))
W64: Final = AudioFormat("Wave64", "w64", (*_PCM, "IMA and Microsoft ADPCM", "GSM 6.10"))
AIFF: Final = AudioFormat("AIFF", "aiff", (*_PCM, "IMA ADPCM"))
AU: Final = AudioFormat("AU", "au", _PCM)
CAF: Final = AudioFormat("CAF", "caf", (*_PCM, "ALAC"))
FLAC: Final = AudioFormat("FLAC", "flac", ("FLAC",))
OGG: Final = AudioFormat("OGG", "ogg", ("Vorbis", "Opus"))
MP3: Final = AudioFormat("MP3", "mp3", ("MPEG 1, 2 and 2.5, layers II and III",))
FORMATS: Final = (WAV, W64, AIFF, AU, CAF, FLAC, OGG, MP3)

_W64_START: Final = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_ID3: Final = b"ID3"
_ID3_HEADER: Final = 10


def names() -> str:
    """The formats as a phrase: ``WAV, FLAC, … or MP3``."""
    return ", ".join(each.name for each in FORMATS[:-1]) + f" or {FORMATS[-1].name}"


def stated() -> dict[str, str]:
    """The table as the model's metadata states it, for example ``audio.flac``: ``FLAC``."""
    return {
        **{f"audio.{each.extension}": ", ".join(each.codecs) for each in FORMATS},
        "audio.channels": f"1 to {MAX_CHANNELS}, mixed down to one",
        "audio.rates": f"{RATES[0]} to {RATES[-1]} Hz",
    }


def format_of(data: bytes) -> AudioFormat | None:
    """The format of a file by its first bytes; None if it is not accepted.

    Args:
        data: the file, or at least its first 12 bytes; a tag of ID3 version 2 must have been removed.
    """
    if data[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return WAV if data[8:12] == b"WAVE" else None
    if data[:4] == b"FORM":
        return AIFF if data[8:12] in (b"AIFF", b"AIFC") else None
    if data.startswith(_W64_START):
        return W64
    if data[:4] in (b".snd", b"dns."):
        return AU
    if data.startswith(b"caff\x00\x01"):
        return CAF
    if data.startswith(b"fLaC"):
        return FLAC
    if data.startswith(b"OggS"):
        return OGG
    # A frame of MPEG audio begins with eleven set bits; layer 0 is AAC.
    return MP3 if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 0x06 else None


def tag_size(data: bytes, at: int = 0) -> int:
    """Size of the tag of ID3 version 2 that begins at a position, bytes; 0 if there is none."""
    if data[at : at + 3] != _ID3 or len(data) < at + _ID3_HEADER:
        return 0
    a, b, c, d = data[at + 6 : at + 10]
    footer = _ID3_HEADER if data[at + 5] & 0x10 else 0
    return _ID3_HEADER + footer + ((a & 127) << 21 | (b & 127) << 14 | (c & 127) << 7 | d & 127)
