"""A mixture that trusts one expert nearly always is that expert with dead weight."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "expert_collapse"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate whose gate gives one expert more than the bound on average."""
    bound = candidate.thresholds.max_expert_weight
    if bound is False:
        return not_asked(NAME, "No bound is set for the weight of one expert (gate.max_expert_weight).")
    if len(candidate.modalities) < 2:
        return not_asked(NAME, "The model has one modality only, so there is little for a gate to choose.")
    weights = {name: candidate.metrics.get(f"test.gate.{name}.mean") for name in candidate.experts}
    known = {name: weight for name, weight in weights.items() if weight is not None}
    if len(known) < len(weights):
        return not_measured(NAME, "The gate's mean weight for each expert", bound)
    first = max(known, key=lambda name: known[name])
    measured, spoken = known[first], first.replace("_", "-")
    said = f"The gate gives the {spoken} expert, which it trusts most, {100 * measured:.0f} % on average"
    if measured <= bound:
        return passed(NAME, measured, bound, f"{said}; up to {100 * bound:.0f} % is no collapse.")
    return rejected(NAME, measured, bound, f"{said}: beyond {100 * bound:.0f} % the others hardly count.")
