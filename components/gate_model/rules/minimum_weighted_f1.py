"""The interval's lower end, not the point, must reach the floor."""

from __future__ import annotations

from components.core.manifests import RuleResult
from components.gate_model.candidate import Candidate


def judge(candidate: Candidate) -> RuleResult:
    """Reject a candidate that is surely below the floor, hold one that may be."""
    name, bound = "minimum_weighted_f1", candidate.thresholds.min_weighted_f1
    low, high = (candidate.metrics.get(f"test.weighted_f1.{end}") for end in ("low", "high"))
    if low is None or high is None:
        return RuleResult(
            rule=name, outcome="reject", measured=None, bound=bound, sentence="The weighted F1 was not measured."
        )
    if low >= bound:
        sentence = (
            f"Weighted F1 is at least {low:.3f} (95 % interval {low:.3f} to {high:.3f}); {bound:.3f} is required."
        )
        return RuleResult(rule=name, outcome="promote", measured=low, bound=bound, sentence=sentence)
    surely = high < bound
    sentence = (
        f"Weighted F1 lies between {low:.3f} and {high:.3f}; the lower end must reach {bound:.3f}"
        f"{', and even the upper end does not' if surely else ''}."
    )
    return RuleResult(rule=name, outcome="reject" if surely else "hold", measured=low, bound=bound, sentence=sentence)
