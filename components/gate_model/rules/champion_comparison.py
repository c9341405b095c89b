"""A candidate must not be worse than the champion, or be better, on the same test split: the paired interval decides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.gate_model.candidate import Candidate, not_evaluated
from components.gate_model.example_figures import interval
from components.gate_model.paired_comparison import PairedComparison
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


_COMPARISON = PairedComparison(NAME, "champion", DIFFERENCE, rejects="worse")


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Promote if the paired interval shows the candidate good enough, reject if it shows it worse, else hold."""
    if not candidate.champion_digest:
        return not_evaluated(NAME, "There is no champion yet: nothing to compare with.")
    return _COMPARISON.evaluate(
        candidate,
        candidate.champion_digest,
        candidate.champion,
        thresholds.champion_margin,
        superior=thresholds.champion_mode == "superiority",
    )


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
