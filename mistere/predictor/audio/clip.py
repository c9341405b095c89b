"""Check the header of an encoded clip before decoding: a small file may claim more samples than the memory can hold."""

from __future__ import annotations

import io
from typing import Final, NamedTuple

from mistere.predictor.audio.ogg import has_whole_headers
from mistere.predictor.errors import unsupported_audio

_STARTS: Final = (b"RIFF", b"RF64", b"fLaC", b"OggS")
_RATES: Final = range(1000, 384001)
_CHANNELS: Final = (1, 2)


class ClipHeader(NamedTuple):
    """What the header of an encoded file says.

    Attributes:
        seconds: duration; no more than this is ever decoded.
        rate: samples per second.
        channels: number of channels.
    """

    seconds: float
    rate: int
    channels: int


def read_header(clip: bytes, utterance: int) -> ClipHeader:
    """Check that a clip is WAV, FLAC or OGG, mono or stereo, with a plausible sample rate.

    Args:
        clip: the encoded file.
        utterance: its index in the dialogue.

    Raises:
        RequestError: the clip is not accepted, or its header cannot be read.
    """
    import soundfile

    if not clip.startswith(_STARTS) or (clip.startswith(b"OggS") and not has_whole_headers(clip)):
        raise unsupported_audio(utterance)
    try:
        with soundfile.SoundFile(io.BytesIO(clip)) as file:
            fits = file.samplerate in _RATES and file.channels in _CHANNELS
            header = ClipHeader(file.frames / file.samplerate if fits else 0.0, file.samplerate, file.channels)
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError) as error:
        raise unsupported_audio(utterance) from error
    if not fits:
        raise unsupported_audio(utterance)
    return header
