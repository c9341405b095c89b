"""Every expert must contribute: the mixture without it must be worse by a minimum."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate, held, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import EXPERTS, interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds

NAME = "minimum_contribution"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_contribution: Annotated[Number, Field(ge=-1, le=1)] | Off = Field(
        default=-0.02,
        description="least weighted F1 that every expert must add to the mixture; slightly below 0 allows an idle expert.",
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate with an expert whose whole interval is below the minimum, hold one whose point estimate is."""
    bound = thresholds.min_contribution
    if bound is False:
        return not_evaluated(NAME, "No minimum contribution is set for the experts (gate.min_contribution).")
    if len(candidate.modalities) < 2:
        return not_evaluated(NAME, "The model has one modality only, so its experts have the same input.")
    contributions = {name: candidate.interval(f"test.contribution.{name}") for name in candidate.experts}
    measured = {name: interval for name, interval in contributions.items() if interval is not None}
    if len(measured) < len(contributions):
        return not_measured(NAME, "The mixture's loss without each expert", bound)
    least = min(measured, key=lambda name: measured[name].value)
    loss = measured[least]
    demand = "required" if bound > 0 else "allowed"
    sentence = (
        f"The {least.replace('_', '-')} expert contributes least: it adds {loss.value:+z.3f} to the mixture's weighted F1 "
        f"(95 % interval {loss.low:+z.3f} to {loss.high:+z.3f})"
    )
    if loss.value >= bound:
        return passed(NAME, loss.value, bound, f"{sentence}; each must contribute at least {bound:+z.3f}.")
    if loss.high < bound:
        return rejected(NAME, loss.value, bound, f"{sentence}, less than the {demand} {bound:+z.3f}.")
    return held(
        NAME, loss.value, bound, f"{sentence}; {bound:+z.3f} is {demand}, and the interval includes it: undecided."
    )


EXAMPLES = Examples(
    promotes={
        key: value for name in EXPERTS for key, value in interval(f"test.contribution.{name}", 0.01, 0.02, 0.03).items()
    },
    cases=(
        Case("reject", interval("test.contribution.speech", -0.07, -0.05, -0.03)),
        Case("hold", interval("test.contribution.text", -0.07, -0.03, -0.01)),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
