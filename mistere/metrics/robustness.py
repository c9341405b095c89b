"""Figures under degraded input and under the effects of real calls as flat metrics; readers need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mistere.metrics.classification import Interval

PREFIX = "test.robustness."
_CALLS: Final = "test.calls."
_CHAMPION_CALLS: Final = "champion.calls."
CALL_DIFFERENCE: Final = f"{_CHAMPION_CALLS}{{name}}.difference"
"""Template of the metric with weighted F1 under a level of an effect of real calls minus the champion's, paired."""
_CLEAN: Final = "clean"


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
        flat |= _bounded(name, score)
    return {name: round(value, 8) for name, value in flat.items()}


def robustness_from_metrics(metrics: Mapping[str, float], order: Sequence[str] = ()) -> list[RobustnessPoint]:
    """The points from the metrics of :func:`robustness_metrics`; empty if not measured.

    Args:
        metrics: flat metrics.
        order: names of conditions that come first, in this order; the others follow in the order of the metrics.
    """
    named = [key.removeprefix(PREFIX).removesuffix(".loss") for key in metrics if key.startswith(PREFIX)]
    return [
        RobustnessPoint(
            name, _interval(metrics, f"{PREFIX}{name}.weighted_f1"), _interval(metrics, f"{PREFIX}{name}.loss")
        )
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
        """Flat: ``test.calls.<level>.weighted_f1``, ``….ece`` and ``….loss``, the champion's under ``champion.calls.<level>``, and
        ``champion.calls.<level>.difference``, all with bounds; ``test.calls.<level>.turns`` without.
        """
        flat: dict[str, float] = {}
        for name, level in {_CLEAN: self.clean, **self.levels}.items():
            flat[f"{_CALLS}{name}.turns"] = float(level.turns)
            flat |= _flat(f"{_CALLS}{name}", level.model)
            if level.other is not None:
                flat |= _flat(f"{_CHAMPION_CALLS}{name}", level.other)
            if level.difference is not None:
                flat |= _bounded(CALL_DIFFERENCE.format(name=name), level.difference)
        return {name: round(value, 8) for name, value in flat.items()}


def calls_from_metrics(metrics: Mapping[str, float]) -> CallFigures | None:
    """The figures from :meth:`CallFigures.metrics`; None if they were not measured."""
    end = ".weighted_f1"
    names = [key[len(_CALLS) : -len(end)] for key in metrics if key.startswith(_CALLS) and key.endswith(end)]
    levels = {name: level for name in names if (level := _level_from(metrics, name)) is not None}
    clean = levels.pop(_CLEAN, None)
    return None if clean is None else CallFigures(clean, levels)


def _level_from(metrics: Mapping[str, float], name: str) -> LevelFigures | None:
    model = _model_from(metrics, f"{_CALLS}{name}")
    if model is None:
        return None
    difference = CALL_DIFFERENCE.format(name=name)
    return LevelFigures(
        int(metrics.get(f"{_CALLS}{name}.turns", 0)),
        model,
        _model_from(metrics, f"{_CHAMPION_CALLS}{name}"),
        _interval(metrics, difference) if difference in metrics else None,
    )


def _model_from(metrics: Mapping[str, float], prefix: str) -> ModelFigures | None:
    score, error, loss = f"{prefix}.weighted_f1", f"{prefix}.ece", f"{prefix}.loss"
    if score not in metrics or error not in metrics:
        return None
    return ModelFigures(
        _interval(metrics, score), _interval(metrics, error), _interval(metrics, loss) if loss in metrics else None
    )


def _flat(prefix: str, figures: ModelFigures) -> dict[str, float]:
    flat = _bounded(f"{prefix}.weighted_f1", figures.weighted_f1) | _bounded(f"{prefix}.ece", figures.ece)
    return flat if figures.loss is None else flat | _bounded(f"{prefix}.loss", figures.loss)


def _bounded(name: str, figure: Interval) -> dict[str, float]:
    return {name: figure.value, f"{name}.low": figure.low, f"{name}.high": figure.high}


def _interval(metrics: Mapping[str, float], name: str) -> Interval:
    value = metrics[name]
    return Interval(value, metrics.get(f"{name}.low", value), metrics.get(f"{name}.high", value))
