"""Under the effects of real calls, the candidate may not be shown to lose much against the champion.

A mean over clean recordings that stays can hide that a model got worse on a bad line, in noise or with transcription errors.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from components.gate_model.candidate import Candidate, compared, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.common.suggestions import did_you_mean
from mistere.config.gate import Number, Off, RuleThresholds
from mistere.data.calls.catalogue import LEVELS
from mistere.metrics.robustness import CALL_DIFFERENCE

NAME = "call_loss"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    max_call_loss: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=False,
        description="how much weighted F1 (0..1) a model may be shown to lose against the champion under an effect of real calls (the upper "
        "end of the paired interval); needs ``evaluation.calls=true``.",
    )
    call_levels: list[str] = Field(
        default=[],
        description="the levels that count, such as ``babble_10db``; empty for all that were measured.",
    )

    @field_validator("call_levels")
    @classmethod
    def _levels_are_known(cls, levels: list[str]) -> list[str]:
        for name in levels:
            if name not in LEVELS:
                raise ValueError(f"there is no level {name!r}{did_you_mean(name, LEVELS)}".removesuffix("."))
        return levels


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate if the whole interval of a level's difference is below the allowed loss.

    An interval that includes it passes: among two dozen levels, some are always undecided.
    """
    allowed, champion = thresholds.max_call_loss, candidate.champion
    if allowed is False:
        return not_evaluated(NAME, "No limit is set for the loss under the effects of real calls (gate.max_call_loss).")
    measured = {name: candidate.interval(CALL_DIFFERENCE.format(name=name)) for name in LEVELS}
    differences = {name: one for name, one in measured.items() if one is not None}
    if candidate.takes_vectors:
        return not_evaluated(NAME, "The model takes vectors, which no call changes.")
    if not differences and (champion is None or champion.incomparable):
        return not_evaluated(NAME, "There is no champion to compare with under the effects of real calls.")
    missing = next((name for name in thresholds.call_levels if name not in differences), "")
    if missing or not differences:
        subject = f"The difference from the champion with {LEVELS[missing].words}" if missing else _SUBJECT
        return not_measured(
            NAME, subject, -allowed, "set evaluation.calls=true, and name levels of evaluation.call_effects"
        )
    counted = {name: differences[name] for name in thresholds.call_levels or differences}
    worst = min(counted, key=lambda name: counted[name].high)
    difference = counted[worst]
    change = compared(difference, "champion")
    sentence = f"Under the effects of real calls, most is lost with {LEVELS[worst].words}: weighted F1 {change}"
    if difference.high < -allowed:
        return rejected(NAME, difference.high, -allowed, f"{sentence}, a loss of more than the allowed {allowed:.3f}.")
    return passed(
        NAME, difference.high, -allowed, f"{sentence}, not shown to lose more than the allowed {allowed:.3f}."
    )


_SUBJECT = "The difference from the champion under the effects of real calls"
_EXAMPLE = "babble_10db"
EXAMPLES = Examples(
    promotes=interval(CALL_DIFFERENCE.format(name=_EXAMPLE), -0.06, -0.02, 0.02),
    thresholds={"max_call_loss": 0.05, "call_levels": [_EXAMPLE]},
    cases=(
        Case("reject", interval(CALL_DIFFERENCE.format(name=_EXAMPLE), -0.15, -0.1, -0.051)),
        Case("promote", interval(CALL_DIFFERENCE.format(name=_EXAMPLE), -0.13, -0.09, -0.05)),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
