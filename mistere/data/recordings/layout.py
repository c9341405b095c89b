"""The parts of a recording's file, each with a length that is counted from its bytes.

A header often states no length (a file that was written to a pipe), a length that an interrupted recording never updated, or only
that of the first of several joined files; and libsndfile decodes no more than the header states. So each part gets a header that
leaves room for all that follows it, and is decoded until nothing comes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mistere.data.recordings.formats import AudioFormat

MAX_PARTS = 100
"""The most joined files that are read: opening one takes 0.1 ms, and the smallest has some forty bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file that libsndfile decodes to its end; frames are samples of one channel.

    Attributes:
        data: the file, with sizes that leave room for all that follows.
        frames: an upper bound of the frames that it decodes to, counted in its bytes; None if that is libsndfile's number.
        stated: the frames that its header states; None if it states none, or if that is libsndfile's number.
        skip: frames at the beginning that were added.
    """

    data: bytes
    frames: int | None = None
    stated: int | None = None
    skip: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of a file.

    Attributes:
        format: the file's format.
        parts: its parts, one after another.
        states_length: whether the header states the length that the bytes have; then any other program reads all of it, too.
        cut_short: whether the file ends before the end that its header states.
    """

    format: AudioFormat
    parts: tuple[Part, ...]
    states_length: bool
    cut_short: bool = False
