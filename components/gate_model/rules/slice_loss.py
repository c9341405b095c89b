"""No slice of the test split with enough utterances may lose much against the champion: the paired interval of each decides.

A mean that stays can hide that the model got worse for one language, one channel or short utterances.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate, compared, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.common.counting import counted
from mistere.config.gate import Number, Off, RuleThresholds
from mistere.metrics.slices import DIALOGUES, DIFFERENCE, SUPPORT, slice_names

NAME = "slice_loss"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    max_slice_loss: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=0.05,
        description="how much weighted F1 (0..1) a slice may be shown to lose against the champion (the upper end of the paired interval).",
    )
    min_slice_support: int = Field(default=100, ge=1, description="how many test utterances of a slice are enough.")
    min_slice_dialogues: int = Field(
        default=10,
        ge=2,
        description="and of how many dialogues: the interval is of resampled dialogues, and of a few it is far too narrow.",
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate if the whole interval of a slice's difference is below the allowed loss.

    An interval that includes it passes: among dozens of slices, some are always undecided.
    """
    allowed, enough, dialogues = thresholds.max_slice_loss, thresholds.min_slice_support, thresholds.min_slice_dialogues
    if allowed is False:
        return not_evaluated(NAME, "No limit is set for the loss of single slices (gate.max_slice_loss).")
    names, champion = slice_names(candidate.metrics, DIFFERENCE), candidate.champion
    if not names and (champion is None or champion.incomparable):
        return not_evaluated(NAME, "There is no champion to compare the slices with.")
    if not names:
        return not_measured(NAME, "The difference from the champion in each slice", -allowed, "evaluate it again")
    worst, measured = "", None
    for name in names:
        support, count = (candidate.metrics.get(key.format(name=name)) for key in (SUPPORT, DIALOGUES))
        difference = candidate.interval(DIFFERENCE.format(name=name))
        if support is None or count is None:
            return not_measured(NAME, f"The size of the slice {_words(name)}", -allowed, "evaluate it again")
        if support < enough or count < dialogues:
            continue
        if difference is None:
            return not_measured(NAME, f"The difference from the champion in {_words(name)}", -allowed)
        if measured is None or difference.high < measured.high:
            worst, measured = name, difference
    if measured is None:
        return not_evaluated(
            NAME,
            f"No slice has the {counted(enough, 'test utterance')} of {counted(dialogues, 'dialogue')} that a comparison requires.",
        )
    sentence = f"Of the slices, {_words(worst)} loses most: weighted F1 {compared(measured, 'champion')}"
    if measured.high < -allowed:
        return rejected(NAME, measured.high, -allowed, f"{sentence}, a loss of more than the allowed {allowed:.3f}.")
    return passed(NAME, measured.high, -allowed, f"{sentence}, not shown to lose more than the allowed {allowed:.3f}.")


def _words(name: str) -> str:
    """A slice in a sentence: ``words 4-8`` of ``words.4-8``."""
    return " ".join(name.replace("_", " ").split(".", 1))


_EXAMPLE = "words.4-8"
EXAMPLES = Examples(
    promotes={
        SUPPORT.format(name=_EXAMPLE): 300.0,
        DIALOGUES.format(name=_EXAMPLE): 40.0,
        **interval(DIFFERENCE.format(name=_EXAMPLE), -0.06, -0.02, 0.02),
    },
    cases=(
        Case("reject", interval(DIFFERENCE.format(name=_EXAMPLE), -0.15, -0.1, -0.051)),
        Case("promote", interval(DIFFERENCE.format(name=_EXAMPLE), -0.13, -0.09, -0.05)),
        *(
            Case(
                "off", {key.format(name=_EXAMPLE): few, **interval(DIFFERENCE.format(name=_EXAMPLE), -0.5, -0.4, -0.3)}
            )
            for key, few in ((SUPPORT, 99.0), (DIALOGUES, 9.0))
        ),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
