"""How far probabilities can be believed: confidence beside accuracy, bin by bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """Answers by their confidence, in bins of equal width over 0 to 1. K bins.

    Attributes:
        edges: of the bins ``[K + 1]``.
        counts: answers in each ``[K]``.
        confidence: their mean probability of the answer given ``[K]``; NaN in an empty bin.
        accuracy: how many of them are right, as a share ``[K]``; NaN in an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the answers (Guo et al., arXiv 1706.04599); 0 without any."""
        filled = self.counts > 0
        distance = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((distance * self.counts[filled]).sum() / max(1, self.counts.sum()))


def reliability(probabilities: np.ndarray, true: np.ndarray, bins: int = 15) -> Reliability:
    """The bins of a reliability diagram.

    Args:
        probabilities: ``[N, C]``, rows sum to 1.
        true: classes ``[N]``.
        bins: how many, K.
    """
    confidence = probabilities.max(1).astype(np.float64)
    right = (probabilities.argmax(1) == true).astype(np.float64)
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(place, weights=values, minlength=bins)
        return np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)

    return Reliability(np.linspace(0, 1, bins + 1), counts, mean(confidence), mean(right))
