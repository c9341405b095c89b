"""A floor over groups: every group with enough test utterances must reach a minimum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from components.gate_model.candidate import not_evaluated, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult
from mistere.common.counting import counted


@dataclass(frozen=True)
class GroupFloor:
    """A minimum for each group of test utterances.

    Attributes:
        rule: the rule's name.
        groups: what one group is, for sentences: ``emotion``.
        figure: what is compared, with its article: ``an F1``.
        score_key: template of the metric with the figure of ``{group}``.
        support_key: template of the metric with the group's number of test utterances.
        setting: the threshold's name in the ``gate`` section.
    """

    rule: str
    groups: str
    figure: str
    score_key: str
    support_key: str
    setting: str

    def evaluate(
        self, metrics: Mapping[str, float], groups: Iterable[str], minimum: float | Literal[False], enough: int
    ) -> RuleResult:
        """Reject a candidate with a group below the minimum; groups with few utterances are left out.

        Args:
            metrics: of the candidate.
            groups: names of the groups.
            minimum: of the figure; False disables the rule.
            enough: how many test utterances of a group are enough.
        """
        if minimum is False:
            return not_evaluated(self.rule, f"No minimum is set for single {self.groups}s (gate.{self.setting}).")
        scores: dict[str, float] = {}
        for group in groups:
            support, score = (metrics.get(key.format(group=group)) for key in (self.support_key, self.score_key))
            if support is None or (support >= enough and score is None):
                return not_measured(
                    self.rule, f"The {self.figure.partition(' ')[2]} of the {self.groups} {group}", minimum
                )
            if support >= enough and score is not None:
                scores[group] = score
        if not scores:
            needed = counted(enough, "test utterance")
            return not_evaluated(self.rule, f"No {self.groups} has the {needed} that a minimum for it requires.")
        worst = min(scores, key=lambda group: scores[group])
        below = [group for group, score in scores.items() if score < minimum]
        if not below:
            lowest = f"the lowest is {worst} with {scores[worst]:.3f}."
            sentence = f"Every {self.groups} reaches {self.figure} of {minimum:.2f}; {lowest}"
            return passed(self.rule, scores[worst], minimum, sentence)
        named = ", ".join(f"{group} {scores[group]:.3f}" for group in below)
        needed = f"Every {self.groups} needs {self.figure} of {minimum:.2f}; below it: {named}."
        return rejected(self.rule, scores[worst], minimum, needed)
