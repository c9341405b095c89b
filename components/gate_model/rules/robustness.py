"""Degraded input (noise, a telephone, lost words) must not cost more than a bound, under each condition that counts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from components.gate_model.candidate import Candidate, held, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds
from mistere.data.conditions import Condition, condition_named, usual_conditions
from mistere.metrics.robustness import PREFIX

NAME = "robustness"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    max_robustness_loss: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=False, description="highest loss of weighted F1 (0..1) under each of ``robustness_conditions``."
    )
    robustness_conditions: list[str] = Field(
        default=["noise_20db", "telephone_codec", "words_10"],
        min_length=1,
        description="the conditions that count; the others are only reported.",
    )

    @field_validator("robustness_conditions")
    @classmethod
    def _conditions_are_known(cls, conditions: list[str]) -> list[str]:
        for name in conditions:
            if condition_named(name) is None:
                raise ValueError(
                    f"there is no condition {name!r}; there are {', '.join(usual_conditions())}, and those of other modalities, "
                    "such as face_blur"
                )
        return conditions


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate whose whole interval is above the bound, hold one whose interval includes it."""
    bound = thresholds.max_robustness_loss
    if bound is False:
        return not_evaluated(NAME, "No limit is set for the loss under degraded input (gate.max_robustness_loss).")
    named = [condition for name in thresholds.robustness_conditions if (condition := condition_named(name))]
    counted: dict[str, Condition] = {one.name: one for one in named if one.modality in candidate.modalities}
    if not counted:
        return not_evaluated(NAME, "None of the conditions that count degrades a modality of this model.")
    losses = {condition: candidate.interval(f"{PREFIX}{condition}.loss") for condition in counted}
    measured = {condition: loss for condition, loss in losses.items() if loss is not None}
    if len(measured) < len(losses):
        missing = next(condition for condition in counted if condition not in measured)
        fix = "set evaluation.robustness=true"
        if candidate.takes_vectors:
            fix = "the model takes vectors, which cannot be degraded; gate.max_robustness_loss=off disables the rule"
        return not_measured(NAME, f"The loss under {counted[missing].words}", bound, fix)
    worst = max(measured, key=lambda condition: measured[condition].high)
    loss = measured[worst]
    sentence = (
        f"The largest loss is under {counted[worst].words}: {loss.value:.3f} of weighted F1 "
        f"(paired 95 % interval {loss.low:+z.3f} to {loss.high:+z.3f})"
    )
    if loss.high <= bound:
        return passed(NAME, loss.high, bound, f"{sentence}; up to {bound:.3f} is allowed.")
    if max(loss.low for loss in measured.values()) > bound:
        return rejected(NAME, loss.high, bound, f"{sentence}, more than the allowed {bound:.3f}.")
    return held(NAME, loss.high, bound, f"{sentence}; {bound:.3f} is allowed, and the interval includes it: undecided.")


EXAMPLES = Examples(
    promotes={
        key: value
        for condition in ("noise_20db", "telephone_codec", "words_10")
        for key, value in interval(f"{PREFIX}{condition}.loss", 0.0, 0.01, 0.03).items()
    },
    thresholds={"max_robustness_loss": 0.05},
    cases=(
        Case("reject", interval(f"{PREFIX}telephone_codec.loss", 0.06, 0.08, 0.1)),
        Case("hold", interval(f"{PREFIX}words_10.loss", 0.02, 0.04, 0.06)),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
