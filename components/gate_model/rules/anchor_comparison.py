"""A candidate must stay near a fixed model, the anchor, so that many small steps cannot lead downhill.

Each release that is not worse than the champion by more than a margin may be a little worse. The champion moves with it; the anchor
does not.
"""

from __future__ import annotations

from pydantic import Field

from components.gate_model.candidate import Candidate, not_evaluated
from components.gate_model.example_figures import interval
from components.gate_model.paired_comparison import PairedComparison
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import ChampionEvaluation, RuleResult
from mistere.config.gate import RuleThresholds

NAME = "anchor_comparison"
DIFFERENCE = "anchor.difference.weighted_f1"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    anchor: str = Field(
        default="",
        max_length=300,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="a registered model that every candidate is compared with besides the champion: ``MODEL/VERSION``, ``MODEL@ALIAS``, a "
        "version or the start of a bundle's digest; empty for none.",
    )
    anchor_margin: float = Field(
        default=0.02, ge=0, le=1, description="by how much weighted F1 may be below the anchor's."
    )


_COMPARISON = PairedComparison(NAME, "anchor", DIFFERENCE, rejects="beyond_margin")


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Promote if the paired interval is above the margin, reject if it is wholly below it, else hold."""
    if not candidate.anchor_digest:
        return not_evaluated(NAME, "No anchor is set to compare with besides the champion (gate.anchor).")
    return _COMPARISON.evaluate(
        candidate, candidate.anchor_digest, candidate.anchor, thresholds.anchor_margin, superior=False
    )


EXAMPLES = Examples(
    promotes=interval(DIFFERENCE, -0.015, 0.0, 0.015),
    cases=(
        Case("reject", interval(DIFFERENCE, -0.05, -0.035, -0.021)),
        Case("hold", interval(DIFFERENCE, -0.03, -0.015, -0.001)),
        Case("reject", candidate={"anchor": None}),
        Case(
            "hold", candidate={"anchor": ChampionEvaluation(bundle_digest="anchor", incomparable="it has other labels")}
        ),
        Case("off", candidate={"anchor": None, "anchor_digest": ""}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
