"""An answer must come in time."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "latency"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate that takes longer for a raw dialogue than the bound, on the machine that evaluated it."""
    bound, measured = candidate.thresholds.max_dialogue_ms, candidate.runtime.get("runtime.dialogue_ms.p95")
    if bound is False:
        return not_asked(NAME, "No bound is set for the time of an answer (gate.max_dialogue_ms).")
    if measured is None:
        return not_measured(NAME, "The time of an answer", bound, "set evaluation.runtime=true")
    said = f"95 of 100 raw dialogues are answered within {measured:.0f} ms on the machine that evaluated the model"
    if measured <= bound:
        return passed(NAME, measured, bound, f"{said}; {bound:.0f} ms are allowed.")
    return rejected(NAME, measured, bound, f"{said}: longer than the {bound:.0f} ms that are allowed.")
