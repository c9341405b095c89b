"""The facial expressions of emotions in the sample.

Each utterance gets a random expression: *clear* (that of its emotion), *shared* (halfway between the two emotions of a pair: happy and
neutral, sad and surprised, angry and fearful) or *flat* (almost neutral); sometimes the camera shows no face. The pairs differ
from those of the wording and of the voice, so a face separates emotions that both of them confuse. The draw depends on the
utterance's own seed alone: neither on the speaker nor on what text and voice tell.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from mistere.corpora.sample.wording import Emotion

_ABSENT, _CLEAR, _SHARED = 0.15, 0.25, 0.38
"""Share of utterances without a face, and with a clear and a shared expression; the rest is almost neutral."""


class Expression(NamedTuple):
    """A facial expression; 0 is a face at rest, except for the eyes."""

    curve: float  # of the mouth: -1 corners down, 1 corners up
    gape: float  # opening of the mouth, 0 to 1
    stretch: float  # width of the mouth: -1 narrow, 1 wide
    brows: float  # height of the brows: -1 down on the eyes, 1 raised
    slant: float  # of the brows: -1 inner ends down, 1 inner ends up
    eyes: float  # opening of the eyes, 0 to 1


_EXPRESSIONS: Final[dict[Emotion, Expression]] = {
    "neutral": Expression(0.0, 0.04, 0.0, 0.0, 0.0, 0.5),
    "happy": Expression(0.9, 0.22, 0.6, 0.1, 0.0, 0.38),
    "sad": Expression(-0.7, 0.02, -0.35, 0.1, 0.9, 0.32),
    "angry": Expression(-0.4, 0.12, 0.1, -0.8, -0.9, 0.48),
    "fearful": Expression(-0.35, 0.4, 0.8, 0.55, 0.5, 0.95),
    "surprised": Expression(0.05, 0.9, -0.7, 0.95, 0.0, 0.9),
}
_FACE_PAIRS: Final[dict[Emotion, Emotion]] = {
    "happy": "neutral",
    "neutral": "happy",
    "sad": "surprised",
    "surprised": "sad",
    "angry": "fearful",
    "fearful": "angry",
}
_SPREAD: Final = np.array([0.14, 0.06, 0.16, 0.14, 0.16, 0.08])
"""Spread of each value over utterances (half the width of a triangular distribution)."""


def draw_expression(emotion: Emotion, draw: np.random.Generator) -> Expression | None:
    """Draw the expression of one utterance with ``emotion``; None if the camera shows no face."""
    shown = draw.random()
    if shown < _ABSENT:
        return None
    rest, own = np.array(_EXPRESSIONS["neutral"]), np.array(_EXPRESSIONS[emotion])
    if shown < _ABSENT + _CLEAR:
        centre = own
    elif shown < _ABSENT + _CLEAR + _SHARED:
        centre = (own + np.array(_EXPRESSIONS[_FACE_PAIRS[emotion]])) / 2
    else:
        centre = rest + 0.15 * (own - rest)
    # The sum of two uniform draws is triangular, and the same on every machine.
    return limited(centre + _SPREAD * (draw.uniform(-1, 1, 6) + draw.uniform(-1, 1, 6)))


def eased(expression: Expression, share: float, jitter: np.ndarray) -> Expression:
    """An expression on its way from a face at rest.

    Args:
        expression: the complete expression.
        share: how much of it shows, 0 to 1.
        jitter: added to its values, ``[6]``.
    """
    rest = np.array(_EXPRESSIONS["neutral"])
    return limited(rest + share * (np.array(expression) - rest) + jitter)


def limited(values: np.ndarray) -> Expression:
    """The expression of values ``[6]``, limited to what a face can do."""
    low, high = np.array([-1.2, 0, -1, -1, -1.1, 0]), np.array([1.2, 1, 1, 1.1, 1.1, 1])
    return Expression(*np.clip(values, low, high).tolist())
