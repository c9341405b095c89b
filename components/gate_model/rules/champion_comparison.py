"""Not worse than the champion on the same test split: the paired interval decides."""

from __future__ import annotations

from components.core.manifests import RuleResult
from components.gate_model.candidate import Candidate


def judge(candidate: Candidate) -> RuleResult:
    """Promote where the loss is surely within the margin, reject where it is surely beyond, hold in between."""
    name, margin = "champion_comparison", candidate.thresholds.champion_margin
    if not candidate.has_champion:
        sentence = "There is no champion yet: nothing to compare with."
        return RuleResult(rule=name, outcome="promote", measured=None, bound=-margin, sentence=sentence)
    difference = candidate.difference
    if difference is None:
        sentence = "The champion was not evaluated on this test split (its labels differ): they cannot be compared."
        return RuleResult(rule=name, outcome="hold", measured=None, bound=-margin, sentence=sentence)
    found = f"{difference.value:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f})"
    if difference.low >= -margin:
        outcome, sentence = (
            "promote",
            f"Weighted F1 differs from the champion's by {found}: not worse by more than {margin:.3f}.",
        )
    elif difference.high < -margin:
        outcome, sentence = (
            "reject",
            f"Weighted F1 differs from the champion's by {found}: worse by more than {margin:.3f}.",
        )
    else:
        outcome = "hold"
        sentence = f"Weighted F1 differs from the champion's by {found}: that does not settle whether it is worse by {margin:.3f}."
    return RuleResult.model_validate(
        {"rule": name, "outcome": outcome, "measured": difference.low, "bound": -margin, "sentence": sentence}
    )
