"""A released model must be reproducible: a commit must contain the code that made it."""

from __future__ import annotations

from pydantic import Field

from components.gate_model.candidate import Candidate, held, passed
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import RuleThresholds

NAME = "committed_code"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    allow_uncommitted: bool = Field(
        default=False, description="release models of code that is in no commit; they cannot be reproduced."
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Hold a model of code with uncommitted changes, or of unknown code, unless that is allowed."""
    if candidate.code == "committed":
        return passed(NAME, None, None, "The code of this model is committed.")
    uncommitted = candidate.code == "uncommitted"
    state = "has uncommitted changes" if uncommitted else "is in no Git repository"
    sentence = f"The code of this model {state}, so the model cannot be reproduced"
    if thresholds.allow_uncommitted:
        return passed(NAME, None, None, f"{sentence}, which this profile allows.")
    fix = "commit them" if uncommitted else "run it in a clone, or allow it with --set gate.allow_uncommitted=true"
    return held(NAME, None, None, f"{sentence}: {fix}{' and run again' if uncommitted else ''}.")


EXAMPLES = Examples(
    promotes={},
    cases=(
        Case("hold", candidate={"code": "uncommitted"}),
        Case("hold", candidate={"code": "unknown"}),
        Case("promote", candidate={"code": "unknown"}, thresholds={"allow_uncommitted": True}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
