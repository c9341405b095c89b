"""What a rule knows about a candidate, and the answers it can give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mistere.artifacts.manifests import ChampionEvaluation, RuleResult
from mistere.metrics.classification import Interval

CodeState = Literal["committed", "uncommitted", "unknown"]


@dataclass(frozen=True)
class Candidate:
    """A candidate's figures.

    Attributes:
        metrics: flat metrics of the test split, of the candidate (``test.…``), the champion (``champion.…``)
            and the anchor (``anchor.…``).
        runtime: its costs on the machine that evaluated it (``runtime.…``).
        labels: names of the classes.
        experts: names of the experts, the unimodal ones first and the cross-modal one last.
        test_digest: identifies the test split of the metrics.
        champion_digest: identifies the champion's bundle; empty without a champion.
        champion: how the champion was evaluated; None if it was not.
        anchor_digest: identifies the anchor's bundle; empty without an anchor.
        anchor: how the anchor was evaluated; None if it was not.
        data_verdict: verdict of the dataset's validation; ``unknown`` if it was not validated.
        data_warnings: sentences of its warnings.
        code: whether a commit contains the code that made it.
        uncommitted: the files with uncommitted changes; empty if they are unknown.
        takes_vectors: whether the model has no encoders, so that texts and recordings cannot be degraded.
    """

    metrics: Mapping[str, float]
    runtime: Mapping[str, float] = field(default_factory=dict)
    labels: Sequence[str] = ()
    experts: Sequence[str] = ()
    test_digest: str = ""
    champion_digest: str = ""
    champion: ChampionEvaluation | None = None
    anchor_digest: str = ""
    anchor: ChampionEvaluation | None = None
    data_verdict: Literal["pass", "warn", "reject", "unknown"] = "pass"
    data_warnings: Sequence[str] = ()
    code: CodeState = "committed"
    uncommitted: str = ""
    takes_vectors: bool = False

    def __post_init__(self) -> None:
        """Drop NaN and infinity: a comparison with NaN is always false, so a rule would pass."""
        for name in ("metrics", "runtime"):
            finite = {key: value for key, value in getattr(self, name).items() if math.isfinite(value)}
            object.__setattr__(self, name, finite)

    def interval(self, name: str) -> Interval | None:
        """A metric with the bounds of its interval; None if any of the three is missing."""
        value, low, high = (self.metrics.get(f"{name}{end}") for end in ("", ".low", ".high"))
        return None if value is None or low is None or high is None else Interval(value, low, high)

    @property
    def modalities(self) -> list[str]:
        """The modalities that the model takes."""
        return list(self.experts[:-1])


def compared(difference: Interval, model: str) -> str:
    """The paired difference of weighted F1 from an earlier model's, as the end of a sentence.

    Args:
        difference: of the candidate from that model.
        model: ``champion``, for example.
    """
    if difference.exactly_zero:
        return f"is exactly the {model}'s"
    return (
        f"differs from the {model}'s by {difference.value:+z.3f} "
        f"(paired 95 % interval {difference.low:+z.3f} to {difference.high:+z.3f})"
    )


def passed(rule: str, measured: float | None, bound: float | None, sentence: str) -> RuleResult:
    """The candidate meets the rule."""
    return RuleResult(rule=rule, outcome="promote", measured=measured, bound=bound, sentence=sentence)


def held(rule: str, measured: float | None, bound: float | None, sentence: str, *, final: bool = False) -> RuleResult:
    """The measurements do not decide the rule; ``final``: and no person may override it."""
    return RuleResult(rule=rule, outcome="hold", measured=measured, bound=bound, sentence=sentence, final=final)


def rejected(rule: str, measured: float | None, bound: float | None, sentence: str) -> RuleResult:
    """The candidate breaks the rule."""
    return RuleResult(rule=rule, outcome="reject", measured=measured, bound=bound, sentence=sentence)


def not_measured(rule: str, subject: str, bound: float | None, fix: str = "") -> RuleResult:
    """A figure that the rule needs is missing, which fails the rule."""
    return rejected(rule, None, bound, f"{subject} was not measured{': ' + fix if fix else ''}.")


def not_evaluated(rule: str, why: str) -> RuleResult:
    """The rule does not apply, or its threshold is off; it does not count."""
    return RuleResult(rule=rule, outcome="off", measured=None, bound=None, sentence=why)
