"""No emotion may be given up: each with enough test utterances must reach a floor."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, not_asked, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "class_floor"


def evaluate(candidate: Candidate) -> RuleResult:
    """Reject a candidate with a class below the floor (the point; a class of few utterances is left out)."""
    bound, least = candidate.thresholds.min_class_f1, candidate.thresholds.min_class_support
    if bound is False:
        return not_asked(NAME, "No floor is set for the single emotions (gate.min_class_f1).")
    scores: dict[str, float] = {}
    for label in candidate.labels:
        support, score = (candidate.metrics.get(f"test.{what}.{label}") for what in ("support", "f1"))
        if support is None or (support >= least and score is None):
            return not_measured(NAME, f"The F1 of {label}", bound)
        if support >= least and score is not None:
            scores[label] = score
    if not scores:
        return not_asked(NAME, f"No emotion has the {least} test utterances that a floor for each of them asks for.")
    worst = min(scores, key=lambda label: scores[label])
    below = [label for label, score in scores.items() if score < bound]
    if not below:
        sentence = f"Every emotion reaches an F1 of {bound:.2f}; the lowest is {worst} with {scores[worst]:.3f}."
        return passed(NAME, scores[worst], bound, sentence)
    told = ", ".join(f"{label} {scores[label]:.3f}" for label in below)
    return rejected(
        NAME, scores[worst], bound, f"An F1 of {bound:.2f} is required of every emotion, not reached: {told}."
    )
