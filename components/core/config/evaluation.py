"""The ``evaluation`` section."""

from __future__ import annotations

from pydantic import Field

from components.core.config.base import SeededSection


class EvaluationConfig(SeededSection):
    """``evaluate_model``: resamples of whole dialogues behind every interval."""

    resamples: int = Field(default=2000, ge=100)
