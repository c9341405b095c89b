"""The interval's lower end, not the point, must reach the floor."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "minimum_weighted_f1"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate that is surely below the floor, hold one that may be."""
    bound, found = candidate.thresholds.min_weighted_f1, candidate.interval("test.weighted_f1")
    if found is None:
        return not_measured(NAME, "Weighted F1", bound)
    low, high = found.low, found.high
    if low >= bound:
        sentence = (
            f"Weighted F1 is at least {low:.3f} (95 % interval {low:.3f} to {high:.3f}); {bound:.3f} is required."
        )
        return passed(NAME, low, bound, sentence)
    surely = high < bound
    sentence = (
        f"Weighted F1 lies between {low:.3f} and {high:.3f}; the lower end must reach {bound:.3f}"
        f"{', and even the upper end does not' if surely else ''}."
    )
    return (rejected if surely else held)(NAME, low, bound, sentence)
