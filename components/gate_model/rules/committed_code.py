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
    approve_uncommitted: bool = Field(
        default=False, description="whether a person may approve a model that is held because its code is in no commit."
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Hold a model of code with uncommitted changes, or of unknown code, unless that is allowed."""
    if candidate.code == "committed":
        return passed(NAME, None, None, "The code of this model is committed.")
    uncommitted = candidate.code == "uncommitted"
    files = f" ({candidate.uncommitted})" if candidate.uncommitted else ""
    state = f"has uncommitted changes{files}" if uncommitted else "is in no Git repository"
    sentence = f"The code of this model {state}, so the model cannot be reproduced"
    if thresholds.allow_uncommitted:
        return passed(NAME, None, None, f"{sentence}, which this profile allows.")
    fix = "commit them and run again" if uncommitted else "run it in a clone"
    return held(
        NAME,
        None,
        None,
        f"{sentence}: {fix}, or allow it with --set gate.allow_uncommitted=true.",
        final=not thresholds.approve_uncommitted,
    )


EXAMPLES = Examples(
    promotes={},
    cases=(
        Case("hold", candidate={"code": "uncommitted"}),
        Case("hold", candidate={"code": "unknown"}),
        Case("promote", candidate={"code": "unknown"}, thresholds={"allow_uncommitted": True}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
