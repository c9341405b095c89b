"""A model must beat always naming the most frequent label by a margin."""

from __future__ import annotations

from components.core.manifests import RuleResult
from components.gate_model.candidate import Candidate


def judge(candidate: Candidate) -> RuleResult:
    """Reject a candidate that has learned no more than the label counts."""
    name = "above_majority"
    low, majority = candidate.metrics.get("test.weighted_f1.low"), candidate.metrics.get("test.majority.weighted_f1")
    if low is None or majority is None:
        return RuleResult(
            rule=name, outcome="reject", measured=None, bound=None, sentence="The majority baseline was not measured."
        )
    bound = majority + candidate.thresholds.min_over_majority
    passed = low >= bound
    sentence = (
        f"Always naming the most frequent label gives a weighted F1 of {majority:.3f}; the candidate's lower end "
        f"{low:.3f} is {'above' if passed else 'not above'} that by the required {candidate.thresholds.min_over_majority:.3f}."
    )
    return RuleResult(
        rule=name, outcome="promote" if passed else "reject", measured=low, bound=bound, sentence=sentence
    )
