"""Every emotion with enough test utterances must reach a minimum F1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate
from components.gate_model.example_figures import LABELS
from components.gate_model.group_floor import GroupFloor
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds

NAME = "class_floor"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_class_f1: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=0.10, description="minimum F1 (0..1) of every class with enough test utterances (the point estimate)."
    )
    min_class_support: int = Field(default=20, ge=1, description="how many test utterances of a class are enough.")


_FLOOR = GroupFloor(
    rule=NAME,
    groups="emotion",
    figure="an F1",
    score_key="test.f1.{group}",
    support_key="test.support.{group}",
    setting="min_class_f1",
)


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate with a class below the minimum; a class with few utterances is left out."""
    return _FLOOR.evaluate(candidate.metrics, candidate.labels, thresholds.min_class_f1, thresholds.min_class_support)


EXAMPLES = Examples(
    promotes={
        **{f"test.support.{label}": 100.0 for label in LABELS},
        **{f"test.f1.{label}": 0.5 for label in LABELS},
    },
    cases=(
        Case("reject", {"test.f1.joy": 0.09}),
        Case("promote", {"test.support.joy": 19.0, "test.f1.joy": 0.0}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
