"""The gate's rules as table rows, and the reasons at the top of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistere.artifacts.manifests import GateVerdict, RuleResult
from mistere.common.counting import counted
from mistere.runs.outcome import Outcome

_TITLES = {
    "above_majority": "above the majority baseline",
    "anchor_comparison": "comparison with the anchor",
    "bundle_size": "size of the bundle",
    "calibration": "calibration",
    "call_loss": "no effect of a call that costs much",
    "champion_comparison": "comparison with the champion",
    "class_floor": "F1 of each emotion",
    "committed_code": "committed code",
    "data_verdict": "validation of the dataset",
    "expert_collapse": "no collapsed expert",
    "language_floor": "F1 in each language",
    "latency": "latency",
    "minimum_contribution": "contribution of each expert",
    "minimum_weighted_f1": "minimum weighted F1",
    "missing_modality": "missing modality",
    "mixture_gain": "not below its own experts",
    "robustness": "degraded input",
    "slice_loss": "no slice that loses much",
}
_LOW, _HIGH = "lower end of the interval", "upper end of the interval"
_MEASURED_AS = {
    "above_majority": _LOW,
    "anchor_comparison": _LOW,
    "call_loss": _HIGH,
    "champion_comparison": _LOW,
    "data_verdict": "warnings of the validation",
    "minimum_weighted_f1": _LOW,
    "missing_modality": _LOW,
    "mixture_gain": "the deciding interval end closest to the bound",
    "robustness": _HIGH,
    "slice_loss": _HIGH,
}
"""What a rule compares with its bound, if it is not the figure itself."""
_FORMS = {"bundle_size": "{:.1f} MiB", "latency": "{:,.0f} ms", "data_verdict": "{:.0f}"}
_AT_MOST = frozenset(
    {
        "bundle_size",
        "calibration",
        "call_loss",
        "data_verdict",
        "expert_collapse",
        "latency",
        "robustness",
        "slice_loss",
    }
)
"""Rules whose bound is a maximum; that of every other one here is a minimum."""
_SIGNED = frozenset(
    {"anchor_comparison", "call_loss", "champion_comparison", "minimum_contribution", "mixture_gain", "slice_loss"}
)
_OUTCOMES = {
    "promote": ("✓ passed", "good"),
    "hold": ("● held", "wait"),
    "reject": ("✗ rejected", "bad"),
    "off": ("off", "soft"),
}
_WORST_FIRST = ("reject", "hold", "promote", "off")
_FOREMOST = ("champion_comparison", "minimum_weighted_f1", "above_majority", "mixture_gain")


@dataclass(frozen=True)
class RuleRow:
    """A rule as the page shows it.

    Attributes:
        rule: its name in the code.
        title: its name in words.
        answer: its outcome in words.
        tone: CSS class of the answer.
        measured: what it compares with the bound; empty if it has no number.
        measured_as: which end of an interval ``measured`` is; empty if it is the figure itself.
        bound: its threshold, with its direction.
        sentence: why.
        enabled: whether it counts.
        settings: names of its settings, with their section.
    """

    rule: str
    title: str
    answer: str
    tone: str
    measured: str
    measured_as: str
    bound: str
    sentence: str
    enabled: bool
    settings: list[str]


def rule_rows(rules: Sequence[RuleResult]) -> list[RuleRow]:
    """The rules as rows: rejections first, disabled rules last."""
    ordered = sorted(rules, key=lambda rule: _WORST_FIRST.index(rule.outcome))
    return [
        RuleRow(
            rule=rule.rule,
            title=_TITLES.get(rule.rule, rule.rule.replace("_", " ")),
            answer=_OUTCOMES[rule.outcome][0],
            tone=_OUTCOMES[rule.outcome][1],
            measured=_number(rule.rule, rule.measured),
            measured_as="" if rule.measured is None else _MEASURED_AS.get(rule.rule, ""),
            bound=_bound(rule),
            sentence=rule.sentence,
            enabled=rule.outcome != "off",
            settings=[f"gate.{name}" for name in rule.settings],
        )
        for rule in ordered
    ]


def _bound(rule: RuleResult) -> str:
    """The threshold and its direction; a rule that is not known here may have either."""
    number = _number(rule.rule, rule.bound)
    if not number or rule.rule not in _TITLES:
        return number
    return f"{'≤' if rule.rule in _AT_MOST else '≥'} {number}"


def _number(rule: str, value: float | None) -> str:
    if value is None:
        return ""
    return _FORMS.get(rule, "{:+z.3f}" if rule in _SIGNED else "{:.3f}").format(value)


def shown_reasons(outcome: Outcome, gate: GateVerdict | None) -> list[str]:
    """The reasons at the top of the page: all reasons against a model, or the most important ones for it."""
    if gate is None or outcome.verdict not in {"deployed", "waiting"}:
        return outcome.reasons
    passed = [rule for rule in gate.rules if rule.outcome == "promote"]
    foremost = [rule.sentence for name in _FOREMOST for rule in passed if rule.rule == name]
    others = len(passed) - len(foremost)
    if not foremost or not others:
        return outcome.reasons
    summed_up = "One more rule passed." if others == 1 else f"The other {counted(others, 'enabled rule')} passed too."
    further = [reason for reason in outcome.reasons if reason not in {rule.sentence for rule in gate.rules}]
    if outcome.verdict == "waiting":
        return [*further, *foremost, summed_up]
    return [*foremost, summed_up, *further]
