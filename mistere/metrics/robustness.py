"""The loss under degraded input as flat metrics, and read back from them; readers need no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.metrics.classification import Interval

PREFIX = "test.robustness."


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
