"""Parts of a test split, so that a good mean cannot hide a bad corner."""

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
"""Where a part ends and the next begins; the same for every dataset, so that parts of two models are comparable."""


@dataclass(frozen=True)
class SlicePoint:
    """Weighted F1 on a part of the test split, and how much that part is."""

    kind: str
    value: str
    weighted_f1: Interval
    utterances: int


def binned(kind: str, number: float) -> str:
    """The part that a number belongs to: ``4-8``, or ``17+`` for the last."""
    bounds = _BOUNDS[kind]
    place = bisect_right(bounds, number)
    if place == len(bounds):
        return f"{bounds[-1]:g}+"
    low = bounds[place - 1] if place else 0
    whole = kind != "seconds"
    return f"{max(low, 1) if whole else low:g}-{bounds[place] - (1 if whole else 0):g}"


def plain_name(value: object) -> str:
    """A column's value as a part of a metric's name, which MLflow takes: letters, digits, ``_ - / :`` and blanks."""
    return re.sub(r"[^\w/: -]", "_", str(value)).strip()[:60] or "_"


def most_frequent(values: Sequence[str]) -> list[str]:
    """The values as they are, those beyond the twenty most frequent as ``other``."""
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
    """Weighted F1 with its interval and the number of utterances, for each part of each kind.

    Args:
        membership: by kind, the part each utterance belongs to ``[N]``; None where it belongs to none.
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
            found = bootstrap.weighted_f1(true[inside], predicted[inside], classes)
            name = f"{_PREFIX}{kind}.{value}.weighted_f1"
            metrics |= {name: found.value, f"{name}.low": found.low, f"{name}.high": found.high}
            metrics[f"{_PREFIX}{kind}.{value}.support"] = float(inside.sum())
    return {name: round(value, 8) for name, value in metrics.items()}


def slices_from_metrics(metrics: Mapping[str, float]) -> list[SlicePoint]:
    """What :func:`slice_metrics` found, kind by kind, the parts of a number in its order."""
    points = []
    for name, value in metrics.items():
        if match := _KEY.fullmatch(name):
            found = Interval(value, metrics.get(f"{name}.low", value), metrics.get(f"{name}.high", value))
            support = metrics.get(f"{_PREFIX}{match['kind']}.{match['value']}.support", 0.0)
            points.append(SlicePoint(match["kind"], match["value"], found, int(support)))
    order = {kind: index for index, kind in enumerate(("modalities", *_BOUNDS))}
    return sorted(points, key=lambda point: (order.get(point.kind, len(order)), point.kind, _first(point)))


def _first(point: SlicePoint) -> tuple[float, str]:
    number = re.match(r"\d+(\.\d+)?", point.value) if point.kind in _BOUNDS else None
    return (float(number[0]) if number else 0.0, point.value)
