"""What an utterance is called in feature files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """What an utterance is called in feature files, and where it lies in its dialogue.

    Attributes:
        names: its names, the most specific first.
        dialogue: name of its dialogue, whose frames are searched if the file has none of ``names``.
        start: its start in the dialogue's recording in seconds; None if the corpus does not tell.
        end: its end in seconds.
    """

    names: Sequence[str]
    dialogue: str
    start: float | None = None
    end: float | None = None
