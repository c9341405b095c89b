"""The ``gate`` section: the thresholds of a release."""

from __future__ import annotations

from pydantic import Field

from components.core.config.base import SeededSection


class GateConfig(SeededSection):
    """Thresholds a candidate must pass to be released."""

    min_weighted_f1: float = Field(default=0.40, ge=0, le=1)
    min_over_majority: float = Field(
        default=0.05, ge=-1, le=1, description="Margin over always naming the majority class."
    )
    champion_margin: float = Field(
        default=0.01, ge=0, le=1, description="How much worse than the champion still passes."
    )
    resamples: int = Field(default=2000, ge=100)
