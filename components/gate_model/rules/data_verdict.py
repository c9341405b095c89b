"""The dataset must have passed its validation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.gate_model.candidate import Candidate, held, passed, rejected
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import RuleThresholds

NAME = "data_verdict"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    data_warnings: Literal["pass", "hold"] = Field(
        default="pass", description="whether a model of a dataset with warnings passes or is held."
    )
    unvalidated_data: Literal["pass", "hold"] = Field(
        default="hold",
        description="whether a model of data that was never validated, because it was trained on vectors made elsewhere, passes or is "
        "held.",
    )
    approve_data: bool = Field(
        default=False, description="whether a person may approve a model that is held because of its data."
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a model of a rejected dataset; hold one of a dataset with warnings if the profile says so."""
    count, final = len(candidate.data_warnings), not thresholds.approve_data
    if candidate.data_verdict == "reject":
        return rejected(NAME, None, None, "Validation rejected the dataset.")
    if candidate.data_verdict == "unknown":
        unknown = "The data was not validated, because the model was trained on vectors made elsewhere"
        if thresholds.unvalidated_data == "pass":
            return passed(NAME, None, None, f"{unknown}, which this profile allows.")
        return held(NAME, None, None, f"{unknown}: allow it with --set gate.unvalidated_data=pass.", final=final)
    if not count:
        return passed(NAME, 0.0, None, "The dataset passed its validation without a warning.")
    sentence = f"The dataset passed its validation with {count} warning{'s' if count > 1 else ''}"
    if thresholds.data_warnings == "pass":
        return passed(NAME, float(count), None, f"{sentence}, which this profile allows.")
    return held(NAME, float(count), 0.0, f"{sentence}: {candidate.data_warnings[0]}", final=final)


EXAMPLES = Examples(
    promotes={},
    cases=(
        Case("reject", candidate={"data_verdict": "reject"}),
        Case("promote", candidate={"data_verdict": "warn", "data_warnings": ["Few speakers."]}),
        Case("hold", candidate={"data_verdict": "unknown"}),
        Case("promote", candidate={"data_verdict": "unknown"}, thresholds={"unvalidated_data": "pass"}),
        Case(
            "hold",
            candidate={"data_verdict": "warn", "data_warnings": ["Few speakers."]},
            thresholds={"data_warnings": "hold"},
        ),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
