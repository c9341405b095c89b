"""The lower end of weighted F1's interval, not the point estimate, must reach the minimum."""

from __future__ import annotations

from pydantic import Field

from components.gate_model.candidate import Candidate, held, not_measured, passed, rejected
from components.gate_model.example_figures import WEIGHTED_F1, interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import RuleThresholds

NAME = "minimum_weighted_f1"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_weighted_f1: float = Field(
        default=0.40, ge=0, le=1, description="minimum for the lower end of weighted F1's interval (0..1)."
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate whose whole interval is below the minimum, hold one whose interval includes it."""
    bound, score = thresholds.min_weighted_f1, candidate.interval("test.weighted_f1")
    if score is None:
        return not_measured(NAME, "Weighted F1", bound)
    low, high = score.low, score.high
    if low >= bound:
        sentence = (
            f"Weighted F1 is at least {low:.3f} (95 % interval {low:.3f} to {high:.3f}); {bound:.3f} is required."
        )
        return passed(NAME, low, bound, sentence)
    below = high < bound
    sentence = (
        f"Weighted F1 is between {low:.3f} and {high:.3f}; the lower end must reach {bound:.3f}"
        f"{', and even the upper end does not' if below else ''}."
    )
    return (rejected if below else held)(NAME, low, bound, sentence)


EXAMPLES = Examples(
    promotes=WEIGHTED_F1,
    cases=(
        Case("reject", interval("test.weighted_f1", 0.36, 0.38, 0.39)),
        Case("hold", interval("test.weighted_f1", 0.38, 0.41, 0.44)),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
