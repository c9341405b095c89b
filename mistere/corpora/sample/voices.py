"""The speakers of the sample: espeak-ng voice variants, each with its own pitch, vocal tract and pace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mistere.common.splits import SPLITS, Split

_VARIANTS = ("m1", "f1", "m2", "f2", "m3", "f3", "m4", "f4", "m7", "f5", "Michael", "Annie")
_SPEAKERS: dict[Split, int] = {"train": 24, "dev": 8, "test": 16}


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker.

    Attributes:
        name: the speaker's name in the dataset, unique over all splits.
        variant: the espeak-ng voice variant.
        pitch: offset on espeak's pitch scale (0 to 99, 50 is the variant's own).
        tract: factor on all formants (and the pitch with them); below 1 is a longer vocal tract.
        pace: factor on the speaking rate.
    """

    name: str
    variant: str
    pitch: int
    tract: float
    pace: float


@cache
def voices_of(split: Split) -> tuple[Voice, ...]:
    """The speakers of a split. No speaker is in two splits: each has its own variant, pitch and tract."""
    first = sum(_SPEAKERS[earlier] for earlier in SPLITS[: SPLITS.index(split)])
    return tuple(_voice(number) for number in range(first, first + _SPEAKERS[split]))


def _voice(number: int) -> Voice:
    """Speaker ``number``: offsets step through their ranges with coprime strides, so that each split covers the ranges."""
    lap = number // len(_VARIANTS)
    return Voice(
        name=f"speaker-{number:02d}",
        variant=_VARIANTS[number % len(_VARIANTS)],
        pitch=(number * 7 + lap * 3) % 17 - 8,
        tract=0.94 + 0.12 * ((number * 5 + lap * 4) % 13) / 12,
        pace=0.93 + 0.14 * ((number * 3 + lap * 5) % 11) / 10,
    )
