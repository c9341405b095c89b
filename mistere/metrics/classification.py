"""Classification metrics from confusion counts, and intervals from resampling whole dialogues.

Utterances of one dialogue are not independent, so intervals resample dialogues. Every resample is a weighted sum of
per-dialogue confusion matrices: 2,000 resamples of 2,600 utterances are one matrix product.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts ``[C, C]``: rows are true labels, columns predicted ones (integer arrays ``[N]``)."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def f1_per_class(counts: np.ndarray) -> np.ndarray:
    """F1 ``[..., C]`` from confusion counts ``[..., C, C]``; 0 for a class that neither occurs nor is predicted."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    total = counts.sum(-1) + counts.sum(-2)
    return np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 weighted by support, ``[...]`` from ``[..., C, C]``."""
    support = counts.sum(-1).astype(np.float64)
    return (f1_per_class(counts) * support).sum(-1) / np.maximum(support.sum(-1), 1)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Unweighted mean of the classes' F1."""
    return f1_per_class(counts).mean(-1)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of correct predictions."""
    return np.trace(counts, axis1=-2, axis2=-1) / np.maximum(counts.sum((-2, -1)), 1)


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its interval."""

    value: float
    low: float
    high: float

    @property
    def exactly_zero(self) -> bool:
        """Whether a paired difference is 0 in every resample, as of two models that predict alike."""
        return self.value == self.low == self.high == 0


Figure = Callable[[np.ndarray], np.ndarray]
"""A figure ``[...]`` (or ``[..., C]``, one per class) from confusion counts ``[..., C, C]``."""


class DialogueBootstrap:
    """Resamples dialogues; one object draws one set of resamples, so that figures from it can be paired.

    Args:
        dialogues: the dialogue of each utterance ``[N]``.
        resamples: number of resamples, R.
        seed: seed of the draws.
        interval: coverage, for example 0.95.
    """

    def __init__(self, dialogues: Sequence[str], resamples: int, seed: int, interval: float = 0.95) -> None:
        _, self._index = np.unique(np.asarray(dialogues, dtype=object).astype(str), return_inverse=True)
        count = int(self._index.max()) + 1
        draws = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
        offsets = np.arange(resamples)[:, None] * count
        weights = np.bincount((draws + offsets).ravel(), minlength=resamples * count).reshape(resamples, count)
        self._weights = weights.astype(np.float64)  # small integers, exact in float64, so that BLAS multiplies them
        self._tail = (1 - interval) / 2

    def left_out(self) -> DialogueBootstrap:
        """Of every resample, the dialogues that it did not draw, once each."""
        other = copy.copy(self)
        other._weights = (self._weights == 0).astype(np.float64)
        return other

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the utterances of every resample ``[R, ...]``, of values ``[N, ...]``."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        per_dialogue = np.zeros((self._weights.shape[1], flat.shape[1]))
        np.add.at(per_dialogue, self._index, flat)
        return (self._weights @ per_dialogue).reshape(-1, *values.shape[1:])

    def counts(self, true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
        """Confusion counts of every resample ``[R, C, C]``."""
        cells = classes * classes
        flat = self._index * cells + true * classes + predicted
        per_dialogue = np.bincount(flat, minlength=self._weights.shape[1] * cells).reshape(-1, cells)
        return (self._weights @ per_dialogue).reshape(-1, classes, classes)

    def estimates(self, figure: Figure, true: np.ndarray, predicted: np.ndarray, classes: int) -> list[Interval]:
        """A figure with its interval; one per class if the figure is."""
        values = np.atleast_1d(figure(confusion(true, predicted, classes)))
        draws = figure(self.counts(true, predicted, classes)).reshape(-1, len(values))
        return [self.interval(float(value), draws[:, index]) for index, value in enumerate(values)]

    def differences(
        self, figure: Figure, true: np.ndarray, one: np.ndarray, other: np.ndarray, classes: int
    ) -> list[Interval]:
        """A figure of ``one`` minus that of ``other``, paired over the same resamples."""
        values = np.atleast_1d(figure(confusion(true, one, classes)) - figure(confusion(true, other, classes)))
        draws = figure(self.counts(true, one, classes)) - figure(self.counts(true, other, classes))
        draws = draws.reshape(-1, len(values))
        return [self.interval(float(value), draws[:, index]) for index, value in enumerate(values)]

    def weighted_f1(self, true: np.ndarray, predicted: np.ndarray, classes: int) -> Interval:
        """Weighted F1 with its interval."""
        return self.estimates(weighted_f1, true, predicted, classes)[0]

    def weighted_f1_difference(self, true: np.ndarray, one: np.ndarray, other: np.ndarray, classes: int) -> Interval:
        """Weighted F1 of ``one`` minus that of ``other``, paired over the same resamples."""
        return self.differences(weighted_f1, true, one, other, classes)[0]

    def interval(self, value: float, draws: np.ndarray) -> Interval:
        """A value with the quantiles of its resamples ``[R]`` as bounds."""
        low, high = np.quantile(draws, [self._tail, 1 - self._tail])
        return Interval(value, float(low), float(high))
