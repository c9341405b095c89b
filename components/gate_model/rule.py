"""A gate rule: its thresholds, the function that applies them, and examples that the conformance tests run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, create_model

from components.gate_model.candidate import Candidate, not_evaluated, not_measured, passed, rejected
from mistere.artifacts.manifests import RuleResult
from mistere.config.composition import select
from mistere.config.gate import Number, Off, RuleThresholds

T = TypeVar("T", bound=RuleThresholds)


@dataclass(frozen=True)
class Case:
    """One example: changes to the candidate that every rule promotes, and what the rule then answers.

    Attributes:
        outcome: the rule's answer.
        figures: metrics (``test.…``, ``champion.…``) and costs (``runtime.…``) with other values.
        thresholds: thresholds with other values.
        candidate: other attributes of :class:`~components.gate_model.candidate.Candidate`.
    """

    outcome: Literal["promote", "hold", "reject", "off"]
    figures: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)
    candidate: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """What a rule answers, by example. The tests also leave out each figure once, which must fail the rule.

    Attributes:
        promotes: every figure that the rule needs, with a value at which it promotes.
        cases: other values, and the rule's answer to them; at least one that is not ``promote``.
        thresholds: thresholds for all cases that differ from the defaults, for a rule that is off by default.
    """

    promotes: Mapping[str, float]
    cases: Sequence[Case]
    thresholds: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule(Generic[T]):
    """A gate rule.

    Attributes:
        name: identifies it in verdicts and reports.
        thresholds: its settings in the ``gate`` section, each with default, bounds and ``description``.
        evaluate: decides on a candidate; pure.
        examples: for the conformance tests.
    """

    name: str
    thresholds: type[T]
    evaluate: Callable[[Candidate, T], RuleResult]
    examples: Examples

    def decide(self, candidate: Candidate, config: RuleThresholds) -> RuleResult:
        """Apply the rule with its own thresholds, taken from the whole ``gate`` section."""
        result = self.evaluate(candidate, select(config, self.thresholds))
        own = [name for name in self.thresholds.model_fields if name not in RuleThresholds.model_fields]
        return result.model_copy(update={"settings": own})


def upper_bound(
    name: str,
    *,
    figure: str,
    subject: str,
    finding: str,
    limit: str,
    setting: str,
    default: float | Literal[False],
    limits: Mapping[str, float],
    description: str,
    examples: Examples,
    fix: str = "",
) -> Rule[RuleThresholds]:
    """A rule that rejects a candidate if one figure is above a threshold.

    Args:
        name: the rule's name.
        figure: the metric, or the cost if it starts with ``runtime.``.
        subject: what the figure is, to begin a sentence with.
        finding: template of a sentence's beginning, with ``{measured}``.
        limit: template of the threshold with its unit, with ``{bound}``.
        setting: the threshold's name in the ``gate`` section.
        default: its default; False for a rule that is off by default.
        limits: what the threshold itself may be, as in pydantic: ``{"ge": 0, "le": 1}``.
        description: what the threshold means, with its unit.
        examples: for the conformance tests.
        fix: how to get the figure measured.
    """
    kind = Annotated[Number, Field(**limits)] | Off  # type: ignore[call-overload]
    fields: dict[str, Any] = {setting: (kind, Field(default=default, description=description))}
    thresholds = create_model("Thresholds", __base__=RuleThresholds, **fields)

    def evaluate(candidate: Candidate, own: RuleThresholds) -> RuleResult:
        bound = getattr(own, setting)
        measured = (candidate.runtime if figure.startswith("runtime.") else candidate.metrics).get(figure)
        if bound is False:
            return not_evaluated(name, f"No limit is set for {subject[0].lower()}{subject[1:]} (gate.{setting}).")
        if measured is None:
            return not_measured(name, subject, bound, fix)
        sentence, allowed = finding.format(measured=measured), limit.format(bound=bound)
        if measured <= bound:
            return passed(name, measured, bound, f"{sentence}; at most {allowed} is allowed.")
        return rejected(name, measured, bound, f"{sentence}, more than the allowed {allowed}.")

    return Rule(name, thresholds, evaluate, examples)
