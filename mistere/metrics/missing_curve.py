"""The missing-modality curve as flat metrics, and read back from them; readers need no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.metrics.classification import Interval

_PREFIX = "test.missing."
MODALITY_DROPOUT = "model.modality_dropout"
"""Metric: share of training utterances that lost a modality, so that the model expects their absence."""
_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<modality>.+)\.(?P<percent>\d+)\.weighted_f1")


@dataclass(frozen=True)
class CurvePoint:
    """Weighted F1 with a share of a modality's utterances removed."""

    modality: str
    share: float
    weighted_f1: Interval


def absent_metric(modality: str) -> str:
    """Name of the metric for the share of test utterances that lack a modality."""
    return f"test.absent.{modality}"


def curve_metrics(points: Sequence[CurvePoint]) -> dict[str, float]:
    """Flat: ``test.missing.<modality>.<percent>.weighted_f1`` with ``.low`` and ``.high``."""
    metrics: dict[str, float] = {}
    for point in points:
        name = f"{_PREFIX}{point.modality}.{100 * point.share:.0f}.weighted_f1"
        score = point.weighted_f1
        metrics |= {name: score.value, f"{name}.low": score.low, f"{name}.high": score.high}
    return {name: round(value, 8) for name, value in metrics.items()}


def curve_from_metrics(metrics: Mapping[str, float]) -> list[CurvePoint]:
    """The points from the metrics of :func:`curve_metrics`, by modality; empty without such metrics."""
    points = []
    for name, value in metrics.items():
        if match := _KEY.fullmatch(name):
            score = Interval(value, metrics.get(f"{name}.low", value), metrics.get(f"{name}.high", value))
            points.append(CurvePoint(match["modality"], int(match["percent"]) / 100, score))
    return sorted(points, key=lambda point: (point.modality, point.share))
