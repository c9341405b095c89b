"""The emotions of one call, from the calibrated probabilities of its turns.

The share of an emotion is the expected share of turns with it: the mean of its probabilities. Given calibrated probabilities, the
number of turns with an emotion is a sum of independent Bernoulli variables (Poisson binomial), whose quantiles bound the share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

QUARTERS: Final = 4
EXACT_TURNS: Final = 256
"""Turns up to which the distribution is computed exactly; above, its normal approximation differs by less than a turn."""
NORMAL_95: Final = 1.959964
_TAIL: Final = 0.025


@dataclass(frozen=True)
class CallStatistics:
    """Statistics of one call; arrays are by label ``[C]``, NaN or -1 where there is no value.

    Attributes:
        share: mean probability over the turns.
        low: 2.5 % quantile of the share.
        high: 97.5 % quantile of the share.
        error: standard deviation of the share.
        quarters: mean probability in each quarter of the turns ``[4, C]``; NaN in a quarter without turns.
        trend: last quarter minus first.
        trend_low: lower bound of its 95 % interval.
        trend_high: upper bound.
        first: index of the first turn with the label as its most probable; -1 for none.
        last: index of the last such turn; -1 for none.
        peak: highest probability.
        peak_at: index of the turn with it.
    """

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: np.ndarray
    quarters: np.ndarray
    trend: np.ndarray
    trend_low: np.ndarray
    trend_high: np.ndarray
    first: np.ndarray
    last: np.ndarray
    peak: np.ndarray
    peak_at: np.ndarray


def call_statistics(probabilities: np.ndarray) -> CallStatistics:
    """Statistics of a call.

    Args:
        probabilities: calibrated ``[n, C]``, in the order of the turns; n is at least 1.
    """
    p = probabilities.astype(np.float64)
    turns, classes = p.shape
    variance = p * (1 - p)
    quarter = np.arange(turns) * QUARTERS // turns
    sizes = np.bincount(quarter, minlength=QUARTERS)
    quarters = np.full((QUARTERS, classes), np.nan)
    spread = np.full((QUARTERS, classes), np.nan)
    for index in np.flatnonzero(sizes):
        quarters[index] = p[quarter == index].mean(0)
        spread[index] = variance[quarter == index].sum(0) / sizes[index] ** 2
    trend = quarters[-1] - quarters[0]
    margin = NORMAL_95 * np.sqrt(spread[-1] + spread[0])
    low, high = share_bounds(p)
    most = p.argmax(1)
    has = most[:, None] == np.arange(classes)
    some = has.any(0)
    return CallStatistics(
        share=p.mean(0),
        low=low,
        high=high,
        error=np.sqrt(variance.sum(0)) / turns,
        quarters=quarters,
        trend=trend,
        trend_low=np.maximum(trend - margin, -1.0),
        trend_high=np.minimum(trend + margin, 1.0),
        first=np.where(some, has.argmax(0), -1),
        last=np.where(some, turns - 1 - has[::-1].argmax(0), -1),
        peak=p.max(0),
        peak_at=p.argmax(0),
    )


def share_bounds(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 % and 97.5 % quantiles ``[C]`` of the share of turns with each label.

    Args:
        p: probabilities float64 ``[n, C]``.
    """
    turns, classes = p.shape
    if turns > EXACT_TURNS:
        mean, error = p.mean(0), np.sqrt((p * (1 - p)).sum(0)) / turns
        return np.maximum(mean - NORMAL_95 * error, 0.0), np.minimum(mean + NORMAL_95 * error, 1.0)
    counts = np.zeros((turns + 1, classes))
    counts[0] = 1.0
    for index in range(turns):
        head = counts[: index + 2]
        moved = np.vstack([np.zeros((1, classes)), head[:-1]]) * p[index]
        head *= 1 - p[index]
        head += moved
    below = counts.cumsum(0)
    low = (below < _TAIL).sum(0)
    high = np.minimum((below < 1 - _TAIL).sum(0), turns)
    return low / turns, high / turns
