"""Enough of the model's quality must remain without a modality whose absence is expected, for example when microphones fail.

By default, absence is expected where a model has several modalities and its training dropped some of them (the profile expects
it) or utterances of the test split lack one (the data expects it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from components.gate_model.candidate import Candidate, held, not_evaluated, not_measured, passed, rejected
from components.gate_model.example_figures import WEIGHTED_F1, interval
from components.gate_model.rule import Case, Examples, Rule
from mistere.artifacts.manifests import RuleResult
from mistere.config.gate import Number, Off, RuleThresholds
from mistere.metrics.missing_curve import MODALITY_DROPOUT, absent_metric, curve_from_metrics, curve_metrics

NAME = "missing_modality"


class Thresholds(RuleThresholds):
    """Thresholds of this rule."""

    min_retained: Annotated[Number, Field(ge=0, le=1)] | Off = Field(
        default=0.5, description="least share (0..1) of weighted F1 that must remain without a modality."
    )
    expected_missing: Literal["auto"] | list[str] = Field(
        default="auto",
        description="the modalities that may be missing in use; ``auto`` for those that test utterances lack, or all if training "
        "drops modalities, and for none of a model with one modality.",
    )


def evaluate(candidate: Candidate, thresholds: Thresholds) -> RuleResult:
    """Reject a candidate whose whole interval is below the required share, hold one whose interval includes it."""
    bound = thresholds.min_retained
    if bound is False:
        return not_evaluated(NAME, "No share is set that must remain without a modality (gate.min_retained).")
    expected = _expected(candidate, thresholds.expected_missing)
    if not expected and candidate.modalities:
        return not_evaluated(NAME, _why_none(candidate, thresholds.expected_missing))
    curve = curve_from_metrics(candidate.metrics)
    ends = {
        name: max((point for point in curve if point.modality == name), key=lambda point: point.share, default=None)
        for name in expected
    }
    complete = candidate.metrics.get("test.weighted_f1")
    measured = {
        name: point
        for name, point in ends.items()
        if point is not None and point.share > 0 and curve_metrics([point]).keys() <= candidate.metrics.keys()
    }
    if complete is None or len(measured) < len(ends) or not measured:
        return not_measured(NAME, "Weighted F1 with each modality removed", bound)
    if complete <= 0:
        return rejected(NAME, 0.0, bound, "The model gets nothing right even with every modality present.")
    worst = min(measured, key=lambda name: measured[name].weighted_f1.low)
    point = measured[worst]
    score = point.weighted_f1
    low, high = score.low / complete, score.high / complete
    sentence = (
        f"Without {100 * point.share:.0f} % of {worst}, weighted F1 is {score.value:.3f} instead of {complete:.3f}: "
        f"{100 * low:.0f} to {100 * high:.0f} % remains"
    )
    if low >= bound:
        return passed(NAME, low, bound, f"{sentence}; {100 * bound:.0f} % is required.")
    if high < bound:
        return rejected(NAME, low, bound, f"{sentence}, less than the required {100 * bound:.0f} %.")
    return held(
        NAME, low, bound, f"{sentence}; {100 * bound:.0f} % is required, and the interval includes it: undecided."
    )


def _expected(candidate: Candidate, setting: Literal["auto"] | Sequence[str]) -> list[str]:
    """The model's modalities whose absence is expected; all of several if the report does not say (it is an old one)."""
    modalities = candidate.modalities
    if setting != "auto":
        return [name for name in modalities if name in setting]
    if len(modalities) == 1:
        return []
    absent = {name: candidate.metrics.get(absent_metric(name)) for name in modalities}
    if candidate.metrics.get(MODALITY_DROPOUT, 1.0) > 0 or None in absent.values():
        return modalities
    return [name for name, share in absent.items() if share]


def _why_none(candidate: Candidate, setting: Literal["auto"] | Sequence[str]) -> str:
    if setting != "auto":
        return f"gate.expected_missing names no modality of this model ({', '.join(candidate.modalities)})."
    if len(candidate.modalities) == 1:
        return f"The model's only modality is {candidate.modalities[0]}, without which it has no input."
    return (
        "No modality is expected to be missing: every test utterance has all of them, and training drops none "
        "(mixture.modality_dropout); gate.expected_missing names those that may fail in use."
    )


EXAMPLES = Examples(
    promotes={
        "test.weighted_f1": WEIGHTED_F1["test.weighted_f1"],
        **interval("test.missing.speech.100.weighted_f1", 0.42, 0.45, 0.48),
        **interval("test.missing.text.100.weighted_f1", 0.42, 0.45, 0.48),
    },
    cases=(
        Case("reject", interval("test.missing.speech.100.weighted_f1", 0.2, 0.24, 0.29)),
        Case("hold", interval("test.missing.text.100.weighted_f1", 0.27, 0.3, 0.33)),
        Case(
            "off",
            {
                **interval("test.missing.speech.100.weighted_f1", 0.2, 0.24, 0.29),
                MODALITY_DROPOUT: 0.0,
                absent_metric("speech"): 0.0,
                absent_metric("text"): 0.0,
            },
        ),
        Case(
            "promote",
            {
                **interval("test.missing.speech.100.weighted_f1", 0.2, 0.24, 0.29),
                MODALITY_DROPOUT: 0.0,
                absent_metric("speech"): 0.0,
                absent_metric("text"): 0.1,
            },
        ),
        Case(
            "reject",
            {
                **interval("test.missing.speech.100.weighted_f1", 0.2, 0.24, 0.29),
                MODALITY_DROPOUT: 0.0,
                absent_metric("speech"): 0.0,
                absent_metric("text"): 0.0,
            },
            thresholds={"expected_missing": ["speech"]},
        ),
    ),
)
RULES = (Rule(NAME, Thresholds, evaluate, EXAMPLES),)
