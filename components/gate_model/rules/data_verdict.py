"""A model is no better than its data: what validation said of the dataset counts."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "data_verdict"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a model of rejected data; hold one of data with warnings where the profile says so."""
    count = len(candidate.data_warnings)
    if candidate.data_verdict == "reject":
        return rejected(NAME, None, None, "The dataset was rejected by its validation.")
    if not count:
        return passed(NAME, 0.0, None, "The dataset passed its validation without a warning.")
    said = f"The dataset passed its validation with {count} warning{'s' if count > 1 else ''}"
    if candidate.thresholds.data_warnings == "pass":
        return passed(NAME, float(count), None, f"{said}, which this profile lets pass.")
    return held(NAME, float(count), 0.0, f"{said}: {candidate.data_warnings[0]}")
