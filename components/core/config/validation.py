"""The ``validation`` section."""

from __future__ import annotations

from pydantic import Field

from components.core.config.base import Section


class ValidationConfig(Section):
    """Bounds of ``validate_data``. Shares are fractions of the utterances that have audio."""

    min_seconds: float = Field(default=0.05, gt=0)
    max_seconds: float = Field(default=60.0, gt=0)
    min_sample_rate: int = Field(default=8000, gt=0)
    silence_dbfs: float = Field(default=-60.0, lt=0, description="An utterance quieter than this RMS level is silent.")
    max_silent_share: float = Field(default=0.05, ge=0, le=1)
    max_clipped_samples: float = Field(default=0.01, ge=0, le=1, description="Above it an utterance counts as clipped.")
    max_clipped_share: float = Field(default=0.10, ge=0, le=1)
    max_dialogue_turns: int = Field(default=512, gt=0)
    min_test_per_class: int = Field(default=1, ge=0)
