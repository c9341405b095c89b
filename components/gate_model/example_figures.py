"""Figures of an example candidate that several rules need, so that their examples agree."""

from __future__ import annotations

from collections.abc import Mapping

LABELS = ("anger", "joy", "neutral")
EXPERTS = ("speech", "text", "cross_modal")


def interval(name: str, low: float, value: float, high: float) -> dict[str, float]:
    """A metric with the bounds of its interval."""
    return {name: value, f"{name}.low": low, f"{name}.high": high}


WEIGHTED_F1: Mapping[str, float] = interval("test.weighted_f1", 0.57, 0.6, 0.63)
