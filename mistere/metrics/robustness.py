"""Figures under degraded input and under the effects of real calls as flat metrics; readers need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mistere.metrics.classification import Interval

PREFIX = "test.robustness."
CALL_DIFFERENCE: Final = "champion.calls.{name}.difference"
"""Template of the metric with weighted F1 under a level of an effect of real calls minus the champion's, paired."""
_CALLS: Final = "test.calls."


@dataclass(frozen=True)
class RobustnessPoint:
    """Weighted F1 under one condition, and the paired loss compared with the same dialogues undegraded."""

    condition: str
    weighted_f1: Interval
    loss: Interval


def robustness_metrics(clean: Interval | None, points: list[RobustnessPoint]) -> dict[str, float]:
    """Flat: ``test.robustness.<condition>.weighted_f1`` and ``….loss``, each with ``.low`` and ``.high``."""
    named = {} if clean is None else {f"{PREFIX}clean.weighted_f1": clean}
    for point in points:
        named[f"{PREFIX}{point.condition}.weighted_f1"] = point.weighted_f1
        named[f"{PREFIX}{point.condition}.loss"] = point.loss
    flat: dict[str, float] = {}
    for name, score in named.items():
        flat |= {name: score.value, f"{name}.low": score.low, f"{name}.high": score.high}
    return {name: round(value, 8) for name, value in flat.items()}


def robustness_from_metrics(metrics: Mapping[str, float], order: Sequence[str] = ()) -> list[RobustnessPoint]:
    """The points from the metrics of :func:`robustness_metrics`; empty if not measured.

    Args:
        metrics: flat metrics.
        order: names of conditions that come first, in this order; the others follow in the order of the metrics.
    """

    def interval(name: str) -> Interval:
        return Interval(
            metrics[name], metrics.get(f"{name}.low", metrics[name]), metrics.get(f"{name}.high", metrics[name])
        )

    named = [key.removeprefix(PREFIX).removesuffix(".loss") for key in metrics if key.startswith(PREFIX)]
    return [
        RobustnessPoint(name, interval(f"{PREFIX}{name}.weighted_f1"), interval(f"{PREFIX}{name}.loss"))
        for name in dict.fromkeys([*order, *named])
        if f"{PREFIX}{name}.weighted_f1" in metrics and f"{PREFIX}{name}.loss" in metrics
    ]


@dataclass(frozen=True)
class ModelFigures:
    """A model at a level.

    Attributes:
        weighted_f1: weighted F1.
        ece: expected calibration error.
        loss: what weighted F1 loses on the same turns against the unchanged input, paired; None for the unchanged input itself.
    """

    weighted_f1: Interval
    ece: Interval
    loss: Interval | None = None


@dataclass(frozen=True)
class LevelFigures:
    """The models at a level.

    Attributes:
        turns: number of turns with a label that are left.
        model: the model.
        other: the model beside it; None for none, or if it lacks the modality.
        difference: weighted F1 of the model minus that of the other, paired.
    """

    turns: int
    model: ModelFigures
    other: ModelFigures | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class CallFigures:
    """The figures without any effect, and by the name of the level. A level of a modality that the model lacks is left out."""

    clean: LevelFigures
    levels: Mapping[str, LevelFigures]

    def metrics(self) -> dict[str, float]:
        """Flat: ``test.calls.<level>.weighted_f1``, ``….ece`` and ``….loss``, and ``champion.calls.<level>.difference``, with bounds."""
        named: dict[str, Interval] = {}
        for name, level in {"clean": self.clean, **self.levels}.items():
            named[f"{_CALLS}{name}.weighted_f1"] = level.model.weighted_f1
            named[f"{_CALLS}{name}.ece"] = level.model.ece
            if level.model.loss is not None:
                named[f"{_CALLS}{name}.loss"] = level.model.loss
            if level.difference is not None:
                named[CALL_DIFFERENCE.format(name=name)] = level.difference
        flat: dict[str, float] = {}
        for name, score in named.items():
            flat |= {name: score.value, f"{name}.low": score.low, f"{name}.high": score.high}
        return {name: round(value, 8) for name, value in flat.items()}
