"""The paired comparison of a candidate with an earlier model on the same test split, which several rules make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.gate_model.candidate import Candidate, compared, held, passed, rejected
from mistere.artifacts.manifests import ChampionEvaluation, RuleResult


@dataclass(frozen=True)
class PairedComparison:
    """A comparison of weighted F1 with that of one earlier model.

    Attributes:
        rule: the rule's name.
        model: the earlier model, for sentences: ``champion``.
        figure: the metric with the paired difference.
        rejects: what rejects a candidate that is not good enough: ``worse``, an interval wholly below 0; ``beyond_margin``, one
            wholly below the margin.
    """

    rule: str
    model: str
    figure: str
    rejects: Literal["worse", "beyond_margin"]

    def evaluate(
        self, candidate: Candidate, digest: str, against: ChampionEvaluation | None, margin: float, *, superior: bool
    ) -> RuleResult:
        """Promote if the paired interval shows the candidate good enough, reject if it shows it too bad, else hold.

        Args:
            candidate: the candidate.
            digest: the earlier model's bundle.
            against: how that model was evaluated; None if it was not.
            margin: by how much the candidate may be worse.
            superior: whether the candidate must be better, whatever the margin.
        """
        rule, model = self.rule, self.model
        bound = 0.0 if superior else -margin
        if against is None or against.bundle_digest != digest:
            return rejected(rule, None, bound, f"The {model} was not evaluated on this test split.")
        if against.incomparable:
            return held(rule, None, bound, f"The {model} cannot be compared: {against.incomparable}.")
        if against.test_digest != candidate.test_digest:
            return held(
                rule, None, bound, f"The {model} was evaluated on another test split; such figures are never compared."
            )
        difference = candidate.interval(self.figure)
        if difference is None:
            return rejected(rule, None, bound, f"The difference from the {model} was not measured.")
        sentence = f"Weighted F1 {compared(difference, model)}"
        required = f"better than the {model}" if superior else f"not worse by more than {-bound:.3f}"
        if difference.low > 0 or (not superior and difference.low >= bound):
            return passed(rule, difference.low, bound, f"{sentence}: {required}.")
        if difference.high < (0.0 if self.rejects == "worse" else bound):
            much = "" if self.rejects == "worse" else f" by more than {-bound:.3f}"
            return rejected(rule, difference.low, bound, f"{sentence}: worse than the {model}{much}.")
        if difference.exactly_zero:
            return held(rule, difference.low, bound, f"{sentence}: not {required}.")
        return held(rule, difference.low, bound, f"{sentence}: undecided whether it is {required}.")
