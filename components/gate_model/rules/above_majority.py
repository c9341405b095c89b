"""A model must beat the majority baseline, which always predicts the most frequent label, by a margin."""

from __future__ import annotations

from pydantic import Field

from components.gate_model.candidate import Candidate, not_measured, passed, rejected
from components.gate_model.example_figures import WEIGHTED_F1
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import RuleThresholds

NAME = "above_majority"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_over_majority: float = Field(
        default=0.05,
        ge=-1,
        le=1,
        description="margin over the weighted F1 of always predicting the most frequent label.",
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate that has learned no more than the label counts."""
    margin = thresholds.min_over_majority
    score, majority = candidate.interval("test.weighted_f1"), candidate.metrics.get("test.majority.weighted_f1")
    if score is None or majority is None:
        return not_measured(NAME, "Weighted F1, or that of the majority baseline,", None)
    good = score.low >= majority + margin
    if margin > 0:
        required = f"{'exceeds' if good else 'does not exceed'} it by the required {margin:.3f}"
    else:
        allowed = f"more than {-margin:.3f} below it" if margin else "below it"
        required = f"is {'not ' if good else ''}{allowed}"
    sentence = (
        f"Always predicting the most frequent label gives a weighted F1 of {majority:.3f}; the lower end of the "
        f"candidate's interval, {score.low:.3f}, {required}."
    )
    return (passed if good else rejected)(NAME, score.low, majority + margin, sentence)


EXAMPLES = Examples(
    promotes={**WEIGHTED_F1, "test.majority.weighted_f1": 0.3},
    cases=(Case("reject", {"test.majority.weighted_f1": 0.53}),),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
