"""Every language with enough test utterances must reach a minimum weighted F1.

A dataset whose utterances name their languages has a slice for each of them; the mean over all hides a language that the model does
not understand.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate
from components.gate_model.group_floor import GroupFloor
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds

NAME = "language_floor"
_KEY = "test.slice.language"
_FIGURE = re.compile(rf"{re.escape(_KEY)}\.(.+)\.(?:weighted_f1|support)")


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_language_f1: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=False,
        description="minimum weighted F1 (0..1) of every language with enough test utterances (the point estimate).",
    )
    min_language_support: int = Field(
        default=50, ge=1, description="how many test utterances of a language are enough."
    )


_FLOOR = GroupFloor(
    rule=NAME,
    groups="language",
    figure="a weighted F1",
    score_key=f"{_KEY}.{{group}}.weighted_f1",
    support_key=f"{_KEY}.{{group}}.support",
    setting="min_language_f1",
)


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate with a language below the minimum; a language with few utterances is left out."""
    languages = sorted({match[1] for name in candidate.metrics if (match := _FIGURE.fullmatch(name))})
    return _FLOOR.evaluate(candidate.metrics, languages, thresholds.min_language_f1, thresholds.min_language_support)


EXAMPLES = Examples(
    promotes={
        f"{_KEY}.en.weighted_f1": 0.6,
        f"{_KEY}.en.support": 400.0,
        f"{_KEY}.uk.weighted_f1": 0.5,
        f"{_KEY}.uk.support": 100.0,
    },
    thresholds={"min_language_f1": 0.4},
    cases=(
        Case("reject", {f"{_KEY}.uk.weighted_f1": 0.39}),
        Case("promote", {f"{_KEY}.uk.weighted_f1": 0.0, f"{_KEY}.uk.support": 49.0}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
