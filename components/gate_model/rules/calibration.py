"""Probabilities must mean what they say."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "calibration"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate whose expected calibration error is above the bound (the point: resampling adds to the error)."""
    bound, measured = candidate.thresholds.max_ece, candidate.metrics.get("test.ece")
    if bound is False:
        return not_asked(NAME, "No bound is set for the calibration error (gate.max_ece).")
    if measured is None:
        return not_measured(NAME, "The calibration error", bound)
    said = f"Confidence and accuracy are {measured:.3f} apart on average (expected calibration error)"
    if measured <= bound:
        return passed(NAME, measured, bound, f"{said}; up to {bound:.3f} is allowed.")
    return rejected(NAME, measured, bound, f"{said}: more than the {bound:.3f} that is allowed.")
