"""A candidate must not be worse than the champion, or be better, on the same test split: the paired interval decides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.gate_model.candidate import Candidate, held, not_evaluated, passed, rejected
from components.gate_model.example_figures import interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import RuleThresholds

NAME = "champion_comparison"
DIFFERENCE = "champion.difference.weighted_f1"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    champion_mode: Literal["non_inferiority", "superiority"] = Field(
        default="non_inferiority",
        description="``non_inferiority``: not worse than the champion by more than a margin; ``superiority``: better.",
    )
    champion_margin: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="by how much weighted F1 may be below the champion's in ``non_inferiority``.",
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Promote if the paired interval shows the candidate good enough, reject if it shows it worse, else hold."""
    superior = thresholds.champion_mode == "superiority"
    bound = 0.0 if superior else -thresholds.champion_margin
    if not candidate.champion_digest:
        return not_evaluated(NAME, "There is no champion yet: nothing to compare with.")
    champion = candidate.champion
    if champion is None or champion.bundle_digest != candidate.champion_digest:
        return rejected(NAME, None, bound, "The champion was not evaluated on this test split.")
    if champion.incomparable:
        return held(NAME, None, bound, f"The champion cannot be compared: {champion.incomparable}.")
    if champion.test_digest != candidate.test_digest:
        return held(
            NAME, None, bound, "The champion was evaluated on another test split; such figures are never compared."
        )
    difference = candidate.interval(DIFFERENCE)
    if difference is None:
        return rejected(NAME, None, bound, "The difference from the champion was not measured.")
    sentence = (
        f"Weighted F1 differs from the champion's by {difference.value:+.3f} "
        f"(paired 95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    )
    required = "better than the champion" if superior else f"not worse by more than {-bound:.3f}"
    if difference.low > 0 or (not superior and difference.low >= bound):
        return passed(NAME, difference.low, bound, f"{sentence}: {required}.")
    if difference.high < 0:
        return rejected(NAME, difference.low, bound, f"{sentence}: worse than the champion.")
    return held(NAME, difference.low, bound, f"{sentence}: undecided whether it is {required}.")


EXAMPLES = Examples(
    promotes=interval(DIFFERENCE, 0.005, 0.02, 0.035),
    cases=(
        Case("reject", interval(DIFFERENCE, -0.04, -0.02, -0.001)),
        Case("reject", candidate={"champion": None}),
        Case("hold", interval(DIFFERENCE, -0.02, -0.005, 0.01)),
        Case("off", candidate={"champion": None, "champion_digest": ""}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
