"""Decode the parts of a recording in blocks until nothing comes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np
import soundfile

from mistere.data.recordings.layout import Part

FAILURES: Final = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError)
"""What soundfile raises for a file that cannot be read."""
_BLOCK_VALUES: Final = range(1 << 16, (1 << 22) + 1)
"""Decoded at once, over all channels: at most 16 MiB, whatever a header states."""


class Header(NamedTuple):
    """A part's rate in Hz, its channels, and an upper bound of its frames (samples of one channel)."""

    rate: int
    channels: int
    frames: int


class _Stream(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no type information
    """A file that is only read forwards.

    After each read, soundfile seeks to where the file already is: that fails at the end of a FLAC file of unknown length, makes
    MP3 lose the bits that a frame borrows from the one before it, and costs time.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def opened(part: Part) -> Iterator[tuple[Header, _Stream]]:
    """Open a part; nothing is decoded yet. Raises one of :data:`FAILURES`."""
    with _Stream(io.BytesIO(part.data)) as file:
        # libsndfile never decodes more than its own number, which leaves the delay of an MP3 encoder out.
        frames = file.frames if part.frames is None else min(file.frames, part.frames)
        yield Header(file.samplerate, file.channels, frames), file


def read_mono(file: _Stream, header: Header, part: Part, most: int) -> np.ndarray:
    """The first ``most`` frames of an opened part, or all of them if there are fewer, as the mean of its channels.

    Memory for no more than a block is reserved before its samples come. Raises one of :data:`FAILURES`.

    Returns:
        float32 ``[N]``, N ≤ ``most``.
    """
    waves = [np.empty(0, np.float32)]
    left = min(most, header.frames) + part.skip
    # One frame more than expected: a block that is not filled is the last.
    values = (min(part.stated or header.frames, header.frames) + part.skip + 1) * header.channels
    size = max(1, max(_BLOCK_VALUES[0], min(values, _BLOCK_VALUES[-1])) // header.channels)
    while left > 0:
        block = file.read(out=np.empty((min(size, left), header.channels), np.float32))
        with np.errstate(over="ignore"):  # an infinite mean is refused
            waves.append(block[:, 0] if header.channels == 1 else block.mean(axis=1, dtype=np.float32))
        left -= len(block)
        if len(block) < size:
            break
    return (np.concatenate(waves) if len(waves) > 2 else waves[-1])[part.skip :]


def is_cut_short(part: Part, header: Header, decoded: int, most: int) -> bool:
    """Whether a part ends before the end that its header states."""
    stated = header.frames if part.frames is None else part.stated
    return stated is not None and decoded < most and decoded < 0.98 * stated - 0.05 * header.rate
