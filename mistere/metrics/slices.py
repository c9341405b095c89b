"""Slices of a test split, which show where a good mean hides bad results."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.metrics.classification import DialogueBootstrap, Interval

_PREFIX = "test.slice."
_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<kind>[^.]+)\.(?P<value>.+)\.weighted_f1")
SUPPORT: Final = f"{_PREFIX}{{name}}.support"
"""Template of the metric with a slice's number of test utterances; a slice's name is its kind and its value: ``words.4-8``."""
DIALOGUES: Final = f"{_PREFIX}{{name}}.dialogues"
"""Template of the metric with the number of dialogues that they are from."""
DIFFERENCE: Final = "champion.slice.{name}.difference"
"""Template of the metric with a slice's weighted F1 minus the champion's, paired."""
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
    """Weighted F1 with its interval and the numbers of utterances and dialogues, for each slice of each kind.

    Args:
        membership: by kind, the slice of each utterance ``[N]``; None for no slice.
        true: classes ``[N]``.
        predicted: classes ``[N]``.
        dialogues: of each utterance ``[N]``.
        classes: number of labels.
        config: resamples and seed.
    """
    metrics: dict[str, float] = {}
    for name, inside, bootstrap in _slices(membership, dialogues, config):
        score, key = bootstrap.weighted_f1(true[inside], predicted[inside], classes), f"{_PREFIX}{name}.weighted_f1"
        metrics |= {key: score.value, f"{key}.low": score.low, f"{key}.high": score.high}
        metrics[SUPPORT.format(name=name)] = float(inside.sum())
        metrics[DIALOGUES.format(name=name)] = float(len(set(itertools.compress(dialogues, inside))))
    return {name: round(value, 8) for name, value in metrics.items()}


def slice_differences(
    membership: Mapping[str, Sequence[str | None]],
    true: np.ndarray,
    predicted: np.ndarray,
    champion: np.ndarray,
    dialogues: Sequence[str],
    classes: int,
    config: EvaluationConfig,
) -> dict[str, float]:
    """Weighted F1 minus the champion's in each slice of each kind, with its paired interval.

    Args:
        membership: as for :func:`slice_metrics`.
        true: classes ``[N]``.
        predicted: classes ``[N]``.
        champion: classes ``[N]`` that the champion predicts.
        dialogues: of each utterance ``[N]``.
        classes: number of labels.
        config: resamples and seed.
    """
    metrics: dict[str, float] = {}
    for name, inside, bootstrap in _slices(membership, dialogues, config):
        rows = true[inside], predicted[inside], champion[inside]
        difference, key = bootstrap.weighted_f1_difference(*rows, classes), DIFFERENCE.format(name=name)
        metrics |= {key: difference.value, f"{key}.low": difference.low, f"{key}.high": difference.high}
    return {name: round(value, 8) for name, value in metrics.items()}


def _slices(
    membership: Mapping[str, Sequence[str | None]], dialogues: Sequence[str], config: EvaluationConfig
) -> Iterator[tuple[str, np.ndarray, DialogueBootstrap]]:
    """Each slice: its name, the mask ``[N]`` of its utterances, and resamples of its dialogues."""
    names = np.asarray(dialogues, dtype=object)
    for kind, values in membership.items():
        for value in sorted({value for value in values if value is not None}):
            inside = np.array([one == value for one in values])
            yield f"{kind}.{value}", inside, DialogueBootstrap(list(names[inside]), config.resamples, config.seed)


def slice_names(metrics: Mapping[str, float], template: str) -> list[str]:
    """The names of the slices that have a metric, or a bound of its interval, in alphabetical order.

    Args:
        metrics: any metrics.
        template: :data:`SUPPORT` or :data:`DIFFERENCE`.
    """
    before, after = map(re.escape, template.split("{name}"))
    key = re.compile(rf"{before}(.+?){after}(?:\.low|\.high)?")
    return sorted({match[1] for name in metrics if (match := key.fullmatch(name))})


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
