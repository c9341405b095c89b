"""Not worse than the champion, or better than it, on the same test split: the paired interval decides."""

from __future__ import annotations

from components.gate_model.candidate import Candidate, held, not_asked, passed, rejected
from mistere.artifacts.manifests import RuleResult

NAME = "champion_comparison"


def evaluate(candidate: Candidate) -> RuleResult:
    """Promote what the paired interval shows to be good enough, reject what it shows to be worse, hold what is between."""
    thresholds = candidate.thresholds
    superior = thresholds.champion_mode == "superiority"
    bound = 0.0 if superior else -thresholds.champion_margin
    if not candidate.champion_digest:
        return not_asked(NAME, "There is no champion yet: nothing to compare with.")
    champion = candidate.champion
    if champion is None or champion.bundle_digest != candidate.champion_digest:
        return rejected(NAME, None, bound, "The champion was not evaluated on this test split.")
    if champion.incomparable:
        return held(NAME, None, bound, f"The champion cannot be compared: {champion.incomparable}.")
    if champion.test_digest != candidate.test_digest:
        return held(NAME, None, bound, "The champion's figures are of another test split: the two are never compared.")
    found = candidate.interval("champion.difference.weighted_f1")
    if found is None:
        return rejected(NAME, None, bound, "The difference from the champion was not measured.")
    said = (
        f"Weighted F1 differs from the champion's by {found.value:+.3f} "
        f"(paired 95 % interval {found.low:+.3f} to {found.high:+.3f})"
    )
    asked = "better than the champion" if superior else f"not worse by more than {-bound:.3f}"
    if found.low > 0 or (not superior and found.low >= bound):
        return passed(NAME, found.low, bound, f"{said}: {asked}.")
    if found.high < 0:
        return rejected(NAME, found.low, bound, f"{said}: worse than the champion.")
    return held(NAME, found.low, bound, f"{said}: that does not settle whether it is {asked}.")
