"""Kinds of turns in the sample: in two of the three, one modality says little, and its input shows that.

A *plain* turn is a sentence with a fair recording. A *filler* is a word such as "Okay." that fits every emotion, so the emotion is in
the voice alone, which is often clear. A *noisy* turn is a sentence in loud noise, so the emotion is in the words alone, which
are often clear: a speaker in a noisy place is explicit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TurnKind:
    """A kind of turn.

    Attributes:
        share: its share of all turns.
        telling_wording: share of wording that fits one emotion only.
        shared_wording: share of wording that fits the two emotions of a pair; the rest fits every emotion.
        clear_delivery: share of deliveries with the prosody of one emotion.
        shared_delivery: share of deliveries halfway between two emotions; the rest is almost neutral.
        noise_below_speech_db: range of the signal-to-noise ratio.
    """

    share: float
    telling_wording: float
    shared_wording: float
    clear_delivery: float
    shared_delivery: float
    noise_below_speech_db: tuple[float, float]


PLAIN: Final = TurnKind(0.60, 0.25, 0.57, 0.14, 0.64, (13.0, 28.0))
"""Even here the recording is so noisy that a speech encoder learns the voice, but hardly the words."""
FILLER: Final = TurnKind(0.18, 0.0, 0.0, 0.60, 0.34, (16.0, 28.0))
NOISY: Final = TurnKind(0.22, 0.55, 0.42, 0.14, 0.64, (-9.0, -3.0))
KINDS: Final = (PLAIN, FILLER, NOISY)


def draw_kind(draw: random.Random) -> TurnKind:
    """Draw the kind of a turn, independent of its emotion and of other turns."""
    return draw.choices(KINDS, [kind.share for kind in KINDS])[0]
