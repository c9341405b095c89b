"""Every emotion with enough test utterances must reach a minimum F1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import LABELS
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.common.counting import counted
from mistere.config.gate import Number, Off, RuleThresholds

NAME = "class_floor"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_class_f1: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=0.10, description="minimum F1 (0..1) of every class with enough test utterances (the point estimate)."
    )
    min_class_support: int = Field(default=20, ge=1, description="how many test utterances of a class are enough.")


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate with a class below the minimum; a class with few utterances is left out."""
    bound, support_needed = thresholds.min_class_f1, thresholds.min_class_support
    if bound is False:
        return not_evaluated(NAME, "No minimum is set for single emotions (gate.min_class_f1).")
    scores: dict[str, float] = {}
    for label in candidate.labels:
        support, score = (candidate.metrics.get(f"test.{what}.{label}") for what in ("support", "f1"))
        if support is None or (support >= support_needed and score is None):
            return not_measured(NAME, f"The F1 of {label}", bound)
        if support >= support_needed and score is not None:
            scores[label] = score
    if not scores:
        return not_evaluated(
            NAME, f"No emotion has the {counted(support_needed, 'test utterance')} that a minimum F1 for it requires."
        )
    worst = min(scores, key=lambda label: scores[label])
    below = [label for label, score in scores.items() if score < bound]
    if not below:
        sentence = f"Every emotion reaches an F1 of {bound:.2f}; the lowest is {worst} with {scores[worst]:.3f}."
        return passed(NAME, scores[worst], bound, sentence)
    named = ", ".join(f"{label} {scores[label]:.3f}" for label in below)
    return rejected(NAME, scores[worst], bound, f"Every emotion needs an F1 of {bound:.2f}; below it: {named}.")


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
