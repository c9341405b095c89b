"""A microphone dies: enough of the model must be left without a modality."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult
from mistere.metrics.missing_curve import curve_from_metrics

NAME = "missing_modality"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate that surely keeps less than the bound's share of its weighted F1, hold one that may."""
    bound = candidate.thresholds.min_retained
    if bound is False:
        return not_asked(NAME, "No share is set that must be left without a modality (gate.min_retained).")
    curve = curve_from_metrics(candidate.metrics)
    ends = {
        name: max((point for point in curve if point.modality == name), key=lambda point: point.share, default=None)
        for name in candidate.modalities
    }
    whole = candidate.metrics.get("test.weighted_f1")
    known = {name: point for name, point in ends.items() if point is not None and point.share > 0}
    if whole is None or len(known) < len(ends) or not known:
        return not_measured(NAME, "Weighted F1 with each modality removed", bound)
    if whole <= 0:
        return rejected(NAME, 0.0, bound, "The model gets nothing right, with every modality there.")
    worst = min(known, key=lambda name: known[name].weighted_f1.low)
    point = known[worst]
    kept = point.weighted_f1
    low, high = kept.low / whole, kept.high / whole
    said = (
        f"With {100 * point.share:.0f} % of {worst} gone, weighted F1 is {kept.value:.3f} instead of {whole:.3f}: between "
        f"{100 * low:.0f} and {100 * high:.0f} % is left"
    )
    if low >= bound:
        return passed(NAME, low, bound, f"{said}; {100 * bound:.0f} % is required.")
    if high < bound:
        return rejected(NAME, low, bound, f"{said}, less than the required {100 * bound:.0f} %.")
    return held(NAME, low, bound, f"{said}, which does not settle whether it is the required {100 * bound:.0f} %.")
