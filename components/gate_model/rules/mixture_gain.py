"""The mixture must not be worse than its own best expert, nor than the plain mean of its experts: paired intervals decide."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.gate_model.candidate import Candidate, held, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import EXPERTS, interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds
from mistere.metrics.mixture_gain import COVERAGE, MEAN, MixtureGain, gain_from_metrics, gain_sentence

NAME = "mixture_gain"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    mixture_margin: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=0.01,
        description="by how much the mixture's weighted F1 may be below that of its best expert and of the plain mean of its experts.",
    )
    mixture_mode: Literal["not_shown_below", "non_inferiority"] = Field(
        default="not_shown_below",
        description="``not_shown_below``: rejects if the whole interval is below the margin; ``non_inferiority``: promotes only if "
        "the whole interval is above it, and holds if the interval includes it.",
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a mixture that is shown to be worse by more than the margin; how the undecided counts depends on the mode."""
    margin = thresholds.mixture_margin
    if margin is False:
        return not_evaluated(
            NAME, "No margin is set for the mixture beside its experts and their plain mean (gate.mixture_margin)."
        )
    if len(candidate.experts) < 2:
        return not_evaluated(NAME, "The model has one expert only, so there is nothing simpler to compare it with.")
    gain = gain_from_metrics(candidate.metrics, candidate.experts)
    if gain is None:
        return not_measured(
            NAME, "The mixture's gain over each of its experts and over their plain mean", -margin, "evaluate it again"
        )
    strict = thresholds.mixture_mode == "non_inferiority"
    gains = {"its best expert": gain.over_best, "the plain mean of its experts": gain.over_mean}
    measured = min(one.low if strict else one.high for one in gains.values())
    sentence = gain_sentence(gain)
    if below := [name for name, one in gains.items() if one.high < -margin]:
        fix = _fix(gain, candidate, best="its best expert" in below)
        return rejected(
            NAME, measured, -margin, f"{sentence}: below {' and '.join(below)} by more than {margin:.3f}; {fix}."
        )
    if not strict:
        return passed(NAME, measured, -margin, f"{sentence}: not significantly below either by more than {margin:.3f}.")
    if undecided := [name for name, one in gains.items() if one.low < -margin]:
        return held(
            NAME,
            measured,
            -margin,
            f"{sentence}: undecided whether it is below {' and '.join(undecided)} by more than {margin:.3f}.",
        )
    return passed(NAME, measured, -margin, f"{sentence}: below neither by more than {margin:.3f}.")


def _fix(gain: MixtureGain, candidate: Candidate, *, best: bool) -> str:
    """What brings the mixture up to what it is below."""
    if best and gain.best in candidate.modalities and len(candidate.modalities) > 1:
        return f"keep that modality alone (mixture.modalities: [{gain.best}]), or fit the gate on dev (mixture.gate: fitted)"
    return "fit the gate on dev (mixture.gate: fitted), or weight the experts equally (mixture.gate: mean)"


def _gains(name: str, low: float, value: float, high: float) -> dict[str, float]:
    return interval(name if name == MEAN else f"test.gain_over.{name}", low, value, high)


EXAMPLES = Examples(
    promotes={
        COVERAGE: 0.95,
        **_gains(MEAN, 0.0, 0.01, 0.02),
        **{key: value for name in EXPERTS for key, value in _gains(name, 0.0, 0.02, 0.04).items()},
    },
    cases=(
        Case("reject", _gains("text", -0.06, -0.04, -0.02)),
        Case("reject", _gains(MEAN, -0.055, -0.043, -0.03)),
        Case("promote", _gains("cross_modal", -0.03, -0.001, 0.027)),
        Case("promote", _gains(MEAN, -0.04, -0.02, -0.01)),
        Case("hold", _gains("cross_modal", -0.03, -0.001, 0.027), {"mixture_mode": "non_inferiority"}),
        Case(
            "promote",
            _gains("cross_modal", -0.03, -0.001, 0.027),
            {"mixture_mode": "non_inferiority", "mixture_margin": 0.03},
        ),
        Case("reject", _gains(MEAN, -0.06, -0.04, -0.02), {"mixture_mode": "non_inferiority"}),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
