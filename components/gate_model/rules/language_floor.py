"""Every language with enough test utterances must reach a minimum weighted F1.

A dataset whose utterances name their languages has a slice for each of them; the mean over all hides a language that the model does
not understand.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from components.gate_model.candidate import Candidate, not_evaluated, not_measured, passed, rejected
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.common.counting import counted
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


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate with a language below the minimum; a language with few utterances is left out."""
    bound, enough = thresholds.min_language_f1, thresholds.min_language_support
    if bound is False:
        return not_evaluated(NAME, "No minimum is set for single languages (gate.min_language_f1).")
    scores: dict[str, float] = {}
    for language in sorted({match[1] for name in candidate.metrics if (match := _FIGURE.fullmatch(name))}):
        support, score = (candidate.metrics.get(f"{_KEY}.{language}.{what}") for what in ("support", "weighted_f1"))
        if support is None or (support >= enough and score is None):
            return not_measured(NAME, f"The weighted F1 of the language {language}", bound)
        if support >= enough and score is not None:
            scores[language] = score
    if not scores:
        return not_evaluated(
            NAME,
            f"The data name no two languages, or none with the {counted(enough, 'test utterance')} that a minimum requires.",
        )
    worst = min(scores, key=lambda language: scores[language])
    below = [language for language, score in scores.items() if score < bound]
    if not below:
        sentence = (
            f"Every language reaches a weighted F1 of {bound:.2f}; the lowest is {worst} with {scores[worst]:.3f}."
        )
        return passed(NAME, scores[worst], bound, sentence)
    named = ", ".join(f"{language} {scores[language]:.3f}" for language in below)
    return rejected(
        NAME, scores[worst], bound, f"Every language needs a weighted F1 of {bound:.2f}; below it: {named}."
    )


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
