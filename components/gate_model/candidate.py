"""What a rule sees of a candidate, and the forms its answer takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mistere.artifacts.manifests import ChampionEvaluation, RuleResult
from mistere.config.gate import GateConfig
from mistere.metrics.classification import Interval

CodeState = Literal["committed", "uncommitted", "unknown"]


@dataclass(frozen=True)
class Candidate:
    """A candidate's figures.

    Attributes:
        metrics: flat metrics of the test split, of the candidate (``test.…``) and of the champion (``champion.…``).
        thresholds: the ``gate`` section.
        runtime: its costs on the machine that evaluated it (``runtime.…``).
        labels: the classes' names.
        experts: their names, the unimodal ones first and the cross-modal one last.
        test_digest: of the split that the metrics are of.
        champion_digest: the champion's bundle; empty where there is no champion.
        champion: how the champion was evaluated; None where that was not done.
        data_verdict: of the dataset's validation.
        data_warnings: its sentences.
        code: whether a commit holds the code that made it.
    """

    metrics: Mapping[str, float]
    thresholds: GateConfig
    runtime: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[str] = ()
    experts: Sequence[str] = ()
    test_digest: str = ""
    champion_digest: str = ""
    champion: ChampionEvaluation | None = None
    data_verdict: Literal["pass", "warn", "reject"] = "pass"
    data_warnings: Sequence[str] = ()
    code: CodeState = "committed"

    def __post_init__(self) -> None:
        """What is no number was not measured: comparing with it would let anything pass."""
        for name in ("metrics", "runtime"):
            finite = {key: value for key, value in getattr(self, name).items() if math.isfinite(value)}
            object.__setattr__(self, name, finite)

    def interval(self, name: str) -> Interval | None:
        """A metric with its bounds; None where any of the three is missing."""
        value, low, high = (self.metrics.get(f"{name}{end}") for end in ("", ".low", ".high"))
        return None if value is None or low is None or high is None else Interval(value, low, high)

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model hears or reads."""
        return list(self.experts[:-1])


def passed(rule: str, measured: float | None, bound: float | None, sentence: str) -> RuleResult:
    """The rule is content."""
    return RuleResult(rule=rule, outcome="promote", measured=measured, bound=bound, sentence=sentence)


def held(rule: str, measured: float | None, bound: float | None, sentence: str) -> RuleResult:
    """What was measured does not settle it."""
    return RuleResult(rule=rule, outcome="hold", measured=measured, bound=bound, sentence=sentence)


def rejected(rule: str, measured: float | None, bound: float | None, sentence: str) -> RuleResult:
    """The rule is broken."""
    return RuleResult(rule=rule, outcome="reject", measured=measured, bound=bound, sentence=sentence)


def not_measured(rule: str, what: str, bound: float | None, mend: str = "") -> RuleResult:
    """What the rule needs is missing, which fails it."""
    return rejected(rule, None, bound, f"{what} was not measured{': ' + mend if mend else ''}.")


def not_asked(rule: str, why: str) -> RuleResult:
    """The rule does not apply, or no threshold was set; it neither helps nor hinders."""
    return RuleResult(rule=rule, outcome="off", measured=None, bound=None, sentence=why)
