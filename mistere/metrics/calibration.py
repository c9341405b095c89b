"""Calibration of probabilities: confidence and accuracy bin by bin, and the Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistere.metrics.classification import Interval

if TYPE_CHECKING:
    from mistere.metrics.classification import DialogueBootstrap


@dataclass(frozen=True)
class Reliability:
    """Predictions by their confidence, in K bins of equal width over 0 to 1.

    Attributes:
        edges: edges of the bins ``[K + 1]``.
        counts: predictions in each ``[K]``.
        confidence: mean probability of the predicted class ``[K]``; NaN in an empty bin.
        accuracy: share of correct predictions ``[K]``; NaN in an empty bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance of confidence and accuracy over the predictions (Guo et al., arXiv 1706.04599); 0 without predictions."""
        filled = self.counts > 0
        distance = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((distance * self.counts[filled]).sum() / max(1, self.counts.sum()))


class Calibration:
    """Calibration of N predictions in K bins of equal width.

    Args:
        probabilities: ``[N, C]``, rows sum to 1.
        true: classes ``[N]``.
        bins: number of bins, K.
    """

    def __init__(self, probabilities: np.ndarray, true: np.ndarray, bins: int = 15) -> None:
        confidence = probabilities.max(1).astype(np.float64)
        bin_index = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
        self._bins = bins
        self._inside = np.eye(bins)[bin_index]
        self._confidence = self._inside * confidence[:, None]
        self._right = self._inside * (probabilities.argmax(1) == true)[:, None]
        squares = (probabilities.astype(np.float64) ** 2).sum(1)
        self._brier = squares + 1 - 2 * probabilities[np.arange(len(true)), true].astype(np.float64)

    def reliability(self) -> Reliability:
        """The bins of a reliability diagram."""
        counts = self._inside.sum(0)

        def mean(sums: np.ndarray) -> np.ndarray:
            return np.divide(sums, counts, out=np.full(self._bins, np.nan), where=counts > 0)

        edges = np.linspace(0, 1, self._bins + 1)
        return Reliability(edges, counts.astype(np.int64), mean(self._confidence.sum(0)), mean(self._right.sum(0)))

    def expected_error(self, bootstrap: DialogueBootstrap) -> Interval:
        """Expected calibration error with its basic (pivotal) bootstrap interval, clipped to 0 to 1.

        The error is a sum of absolute gaps, so chance adds to it, and resampling adds once more: percentiles of the resamples lie too
        high and may leave the estimate out. The basic interval mirrors them at the estimate, which takes that excess off. It is widened
        to the estimate if it ends below it.
        """
        value = self.reliability().expected_calibration_error
        gaps = np.abs(bootstrap.sums(self._confidence - self._right)).sum(1)
        drawn = bootstrap.interval(value, gaps / bootstrap.sums(self._inside).sum(1))
        low, high = (2 * value - end for end in (drawn.high, drawn.low))
        return Interval(value, max(0.0, min(low, value)), min(1.0, max(high, value)))

    def brier_score(self, bootstrap: DialogueBootstrap) -> Interval:
        """Mean squared distance of the probabilities from the true classes: 0 is perfect, 2 the worst."""
        draws = bootstrap.sums(self._brier) / bootstrap.sums(np.ones(len(self._brier)))
        return bootstrap.interval(float(self._brier.mean()), draws)


def reliability(probabilities: np.ndarray, true: np.ndarray, bins: int = 15) -> Reliability:
    """The bins of a reliability diagram of probabilities ``[N, C]`` and true classes ``[N]``."""
    return Calibration(probabilities, true, bins).reliability()
