"""A bundle must fit where it is served."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "bundle_size"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate whose own parts are larger than the bound; base weights are shared and do not count."""
    bound, measured = candidate.thresholds.max_bundle_mb, candidate.runtime.get("runtime.size_mb")
    if bound is False:
        return not_asked(NAME, "No bound is set for the bundle's size (gate.max_bundle_mb).")
    if measured is None:
        return not_measured(NAME, "The bundle's size", bound)
    said = f"The bundle's own parts are {measured:.1f} MiB"
    if measured <= bound:
        return passed(NAME, measured, bound, f"{said}; up to {bound:.0f} MiB are allowed.")
    return rejected(NAME, measured, bound, f"{said}: more than the {bound:.0f} MiB that are allowed.")
