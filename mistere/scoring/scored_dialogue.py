"""A dialogue with its prediction, on its way from the scorer to the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.scoring.archive import ArchiveTurn


@dataclass(frozen=True)
class ScoredDialogue:
    """A dialogue with its prediction; the turns no longer hold text, recordings or other content.

    Attributes:
        turns: in order.
        prediction: for every turn.
        predicted: which turns are predicted, not context ``[n]``.
        readable: whether any turn has something that the model reads; the prediction means nothing otherwise.
    """

    turns: list[ArchiveTurn]
    prediction: DialoguePrediction
    predicted: np.ndarray
    readable: bool
