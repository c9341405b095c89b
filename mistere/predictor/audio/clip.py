"""The extent of an encoded clip before decoding: a small file may decode to more samples than the memory can hold."""

from __future__ import annotations

from mistere.data.audio import AudioError, AudioExtent, extent
from mistere.predictor.errors import unsupported_audio


def read_header(clip: bytes, utterance: int) -> AudioExtent:
    """Check that a clip is of an accepted format, and find what it decodes to at most.

    Args:
        clip: the encoded file.
        utterance: its index in the dialogue.

    Raises:
        RequestError: the clip is not accepted, or its header cannot be read.
    """
    try:
        return extent(clip)
    except AudioError as error:
        raise unsupported_audio(utterance) from error
