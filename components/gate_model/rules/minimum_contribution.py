"""Every expert must earn its place: what the mixture loses without it."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "minimum_contribution"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate with an expert that surely adds less than the bound, hold one where that is likely."""
    bound = candidate.thresholds.min_contribution
    if bound is False:
        return not_asked(NAME, "No least contribution is set for the experts (gate.min_contribution).")
    if len(candidate.modalities) < 2:
        return not_asked(NAME, "The model has one modality only, so its experts know the same.")
    found = {name: candidate.interval(f"test.contribution.{name}") for name in candidate.experts}
    known = {name: interval for name, interval in found.items() if interval is not None}
    if len(known) < len(found):
        return not_measured(NAME, "What the mixture loses without each expert", bound)
    least = min(known, key=lambda name: known[name].value)
    measured = known[least]
    said = (
        f"Without its {least.replace('_', '-')} expert, which adds least, the mixture loses {measured.value:+.3f} of weighted "
        f"F1 (95 % interval {measured.low:+.3f} to {measured.high:+.3f})"
    )
    if measured.value >= bound:
        return passed(NAME, measured.value, bound, f"{said}; at least {bound:+.3f} is required of each.")
    if measured.high < bound:
        return rejected(NAME, measured.value, bound, f"{said}: surely less than the {bound:+.3f} required of each.")
    return held(NAME, measured.value, bound, f"{said}; {bound:+.3f} is required of each, which that does not settle.")
