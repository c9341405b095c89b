"""What the settings of all expectations have in common; each expectation declares its own beside its definition."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mistere.config.base import Section


def _yaml_off(value: Any) -> Any:
    """``off`` without quotes is false in YAML."""
    return "off" if value is False else value


Severity = Annotated[Literal["block", "warn", "off"], BeforeValidator(_yaml_off)]
"""``block`` rejects the dataset, ``warn`` adds a warning to the report, ``off`` disables the expectation."""


class ValidationSettings(Section):
    """Settings of ``validate_data`` that belong to no single file of expectations, and the base of those that do.

    Shares are fractions of the utterances that an expectation applies to.
    """

    severity: dict[str, Severity] = Field(
        default_factory=dict,
        description="severities that differ from the declared ones, by expectation: ``block``, ``warn`` or ``off``.",
    )
    quarantine: bool = Field(
        default=False, description="set dialogues with blocking findings aside instead of rejecting the whole dataset."
    )
    max_quarantined_share: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="share of the utterances that may be set aside; above it the dataset is rejected.",
    )
    silence_dbfs: float = Field(
        default=-60.0, lt=0, description="a recording with an RMS level below this, in dBFS, is silent."
    )
    max_quiet: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="a recording is also silent if more than this share of its 20 ms frames is below ``silence_dbfs``.",
    )
    max_missing_share: float = Field(
        default=0.20,
        ge=0,
        le=1,
        description="share of utterances that may lack text, or audio, in a dataset that has it.",
    )
    max_repeated_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of recordings, or of utterances with one sentence, that may be repetitions.",
    )
    max_label_exchange: float = Field(
        default=0.1,
        gt=0,
        description="how much better exchanged label names may explain the words that go with them, in nats a word.",
    )
