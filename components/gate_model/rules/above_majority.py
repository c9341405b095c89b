"""A model must beat always naming the most frequent label by a margin."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "above_majority"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate that has learned no more than the label counts."""
    margin = candidate.thresholds.min_over_majority
    found, majority = candidate.interval("test.weighted_f1"), candidate.metrics.get("test.majority.weighted_f1")
    if found is None or majority is None:
        return not_measured(NAME, "Weighted F1, or that of the majority baseline,", None)
    good = found.low >= majority + margin
    sentence = (
        f"Always naming the most frequent label gives a weighted F1 of {majority:.3f}; the candidate's lower end "
        f"{found.low:.3f} is {'above' if good else 'not above'} that by the required {margin:.3f}."
    )
    return (passed if good else rejected)(NAME, found.low, majority + margin, sentence)
