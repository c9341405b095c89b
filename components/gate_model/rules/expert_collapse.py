"""The gate of the mixture must not rely on one expert nearly always."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import EXPERTS
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds

NAME = "expert_collapse"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    max_expert_weight: Annotated[Number, Field(gt=0, le=1)] | Off = Field(
        default=0.95, description="highest mean gate weight (0..1) of one expert; above it the mixture has collapsed."
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate whose gate gives one expert more than the bound on average."""
    bound = thresholds.max_expert_weight
    if bound is False:
        return not_evaluated(NAME, "No limit is set for the weight of one expert (gate.max_expert_weight).")
    if len(candidate.modalities) < 2:
        return not_evaluated(NAME, "The model has one modality only, so its experts have the same input.")
    weights = {name: candidate.metrics.get(f"test.gate.{name}.mean") for name in candidate.experts}
    measured = {name: weight for name, weight in weights.items() if weight is not None}
    if len(measured) < len(weights):
        return not_measured(NAME, "The gate's mean weight of each expert", bound)
    heaviest = max(measured, key=lambda name: measured[name])
    weight = measured[heaviest]
    sentence = f"The gate gives most weight to the {heaviest.replace('_', '-')} expert, {100 * weight:.0f} % on average"
    if weight <= bound:
        return passed(NAME, weight, bound, f"{sentence}; up to {100 * bound:.0f} % is allowed.")
    return rejected(
        NAME, weight, bound, f"{sentence}; above {100 * bound:.0f} % the other experts contribute almost nothing."
    )


EXAMPLES = Examples(
    promotes={f"test.gate.{name}.mean": share for name, share in zip(EXPERTS, (0.2, 0.3, 0.5), strict=True)},
    cases=(
        Case(
            "reject",
            {"test.gate.speech.mean": 0.0, "test.gate.text.mean": 0.96, "test.gate.cross_modal.mean": 0.04},
        ),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
