"""Slices of a test split, which show where a good mean hides bad results."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.metrics.classification import DialogueBootstrap, Interval

_PREFIX = "test.slice."
_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<kind>[^.]+)\.(?P<value>.+)\.weighted_f1")
_MOST_VALUES = 20
_BOUNDS: Mapping[str, tuple[float, ...]] = {
    "dialogue_turns": (6, 11, 21),
    "words": (4, 9, 17),
    "seconds": (1, 2, 4, 8),
}
"""Boundaries of the slices; the same for every dataset, so that slices of two models are comparable."""


@dataclass(frozen=True)
class SlicePoint:
    """Weighted F1 on a slice of the test split, and the slice's size."""

    kind: str
    value: str
    weighted_f1: Interval
    utterances: int


def binned(kind: str, number: float) -> str:
    """The slice that a number belongs to: ``4-8``, or ``17+`` for the last."""
    bounds = _BOUNDS[kind]
    index = bisect_right(bounds, number)
    if index == len(bounds):
        return f"{bounds[-1]:g}+"
    low = bounds[index - 1] if index else 0
    whole = kind != "seconds"
    return f"{max(low, 1) if whole else low:g}-{bounds[index] - (1 if whole else 0):g}"


def plain_name(value: object) -> str:
    """A column's value as part of a metric's name that MLflow accepts: letters, digits, ``_ - / :`` and blanks."""
    return re.sub(r"[^\w/: -]", "_", str(value)).strip()[:60] or "_"


def most_frequent(values: Sequence[str]) -> list[str]:
    """The values unchanged, except that those beyond the twenty most frequent become ``other``."""
    kept = {value for value, _ in Counter(values).most_common(_MOST_VALUES)}
    return [value if value in kept else "other" for value in values]


def slice_metrics(
    membership: Mapping[str, Sequence[str | None]],
    true: np.ndarray,
    predicted: np.ndarray,
    dialogues: Sequence[str],
    classes: int,
    config: EvaluationConfig,
) -> dict[str, float]:
    """Weighted F1 with its interval and the number of utterances, for each slice of each kind.

    Args:
        membership: by kind, the slice of each utterance ``[N]``; None for no slice.
        true: classes ``[N]``.
        predicted: classes ``[N]``.
        dialogues: of each utterance ``[N]``.
        classes: number of labels.
        config: resamples and seed.
    """
    metrics: dict[str, float] = {}
    names = np.asarray(dialogues, dtype=object)
    for kind, values in membership.items():
        for value in sorted({value for value in values if value is not None}):
            inside = np.array([one == value for one in values])
            bootstrap = DialogueBootstrap(list(names[inside]), config.resamples, config.seed)
            score = bootstrap.weighted_f1(true[inside], predicted[inside], classes)
            name = f"{_PREFIX}{kind}.{value}.weighted_f1"
            metrics |= {name: score.value, f"{name}.low": score.low, f"{name}.high": score.high}
            metrics[f"{_PREFIX}{kind}.{value}.support"] = float(inside.sum())
    return {name: round(value, 8) for name, value in metrics.items()}


def slices_from_metrics(metrics: Mapping[str, float]) -> list[SlicePoint]:
    """The slices from the metrics of :func:`slice_metrics`, by kind; slices of a number in ascending order."""
    points = []
    for name, value in metrics.items():
        if match := _KEY.fullmatch(name):
            score = Interval(value, metrics.get(f"{name}.low", value), metrics.get(f"{name}.high", value))
            support = metrics.get(f"{_PREFIX}{match['kind']}.{match['value']}.support", 0.0)
            points.append(SlicePoint(match["kind"], match["value"], score, int(support)))
    order = {kind: index for index, kind in enumerate(("modalities", *_BOUNDS))}
    return sorted(points, key=lambda point: (order.get(point.kind, len(order)), point.kind, _first(point)))


def _first(point: SlicePoint) -> tuple[float, str]:
    number = re.match(r"\d+(\.\d+)?", point.value) if point.kind in _BOUNDS else None
    return (float(number[0]) if number else 0.0, point.value)
