"""A missing-modality curve as figures: its points, flat as metrics and read back. What reads them needs no model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.metrics.classification import Interval

_PREFIX = "test.missing."
_KEY = re.compile(rf"{re.escape(_PREFIX)}(?P<modality>.+)\.(?P<percent>\d+)\.weighted_f1")


@dataclass(frozen=True)
class CurvePoint:
    """Weighted F1 with a share of a modality's utterances removed."""

    modality: str
    share: float
    weighted_f1: Interval


def curve_metrics(points: Sequence[CurvePoint]) -> dict[str, float]:
    """Flat: ``test.missing.<modality>.<percent>.weighted_f1`` with ``.low`` and ``.high``."""
    metrics: dict[str, float] = {}
    for point in points:
        name = f"{_PREFIX}{point.modality}.{100 * point.share:.0f}.weighted_f1"
        found = point.weighted_f1
        metrics |= {name: found.value, f"{name}.low": found.low, f"{name}.high": found.high}
    return {name: round(value, 8) for name, value in metrics.items()}


def curve_from_metrics(metrics: Mapping[str, float]) -> list[CurvePoint]:
    """What :func:`curve_metrics` wrote, modality by modality; empty where there is no such metric."""
    points = []
    for name, value in metrics.items():
        if match := _KEY.fullmatch(name):
            found = Interval(value, metrics.get(f"{name}.low", value), metrics.get(f"{name}.high", value))
            points.append(CurvePoint(match["modality"], int(match["percent"]) / 100, found))
    return sorted(points, key=lambda point: (point.modality, point.share))
