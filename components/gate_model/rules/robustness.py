"""Noise, a telephone, lost words: the loss under each condition that counts stays within a bound."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult
from mistere.config.evaluation import CONDITIONS
from mistere.metrics.robustness import PREFIX

NAME = "robustness"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate that surely loses more than the bound under a condition, hold one that may."""
    bound = candidate.thresholds.max_robustness_loss
    if bound is False:
        return not_asked(NAME, "No bound is set for what degraded input may cost (gate.max_robustness_loss).")
    asked = [one for one in candidate.thresholds.robustness_conditions if CONDITIONS[one][0] in candidate.modalities]
    if not asked:
        return not_asked(NAME, "None of the conditions that count degrades a modality of this model.")
    found = {one: candidate.interval(f"{PREFIX}{one}.loss") for one in asked}
    known = {one: loss for one, loss in found.items() if loss is not None}
    if len(known) < len(found):
        missing = next(one for one in asked if one not in known)
        return not_measured(NAME, f"What {CONDITIONS[missing][1]} costs", bound, "set evaluation.robustness=true")
    worst = max(known, key=lambda one: known[one].high)
    loss = known[worst]
    said = (
        f"The most that counts is lost under {CONDITIONS[worst][1]}: {loss.value:.3f} of weighted F1 "
        f"(paired 95 % interval {loss.low:+.3f} to {loss.high:+.3f})"
    )
    if loss.high <= bound:
        return passed(NAME, loss.high, bound, f"{said}; up to {bound:.3f} is allowed.")
    if max(one.low for one in known.values()) > bound:
        return rejected(NAME, loss.high, bound, f"{said}: more than the {bound:.3f} that is allowed.")
    return held(NAME, loss.high, bound, f"{said}; {bound:.3f} is allowed, which that does not settle.")
