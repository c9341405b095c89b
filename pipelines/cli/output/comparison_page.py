"""HTML page that compares two models; differences are shown only if both predicted the same test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mistere.artifacts.manifests import EvaluationReport
from mistere.common.counting import counted
from mistere.evaluation.gate_timeline import GateTimeline
from mistere.metrics.classification import (
    DialogueBootstrap,
    Figure,
    Interval,
    accuracy,
    f1_per_class,
    macro_f1,
    weighted_f1,
)
from mistere.metrics.predictions import Predictions
from mistere.reports.evaluated_model import COVERAGE, Evaluated, estimate_text
from mistere.reports.evaluation_view import MACROS, evaluation_view
from mistere.reports.html_page import render_page
from mistere.runs.outcome import Estimate

TEMPLATE = Path(__file__).parent / "comparison_page.html"
RESAMPLES = 2000
SEED = 0
_FIGURES: Sequence[tuple[str, str, Figure | None]] = (
    ("weighted F1", "test.weighted_f1", weighted_f1),
    ("macro F1", "test.macro_f1", macro_f1),
    ("accuracy", "test.accuracy", accuracy),
    ("expected calibration error", "test.ece", None),
    ("Brier score", "test.brier", None),
)
_LESS_IS_BETTER = frozenset({"test.ece", "test.brier"})


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models.

    Attributes:
        title: display name, for example ``mistere, version 3 @champion``.
        facts: lineage (digest, commit, dataset, creation time), in display order.
        evaluation: its metrics.
        predictions: its test predictions; None if they are not available.
        timelines: gate weights of some of its test dialogues.
        short: its name in tables, plots and sentences, for example ``v3``; the title by default.
        digest: identifies the model; two with the same one are the same model.
        inputs: what it reads, for example ``vectors of text``; empty if that is unknown.
    """

    title: str
    facts: Mapping[str, str]
    evaluation: EvaluationReport
    predictions: Predictions | None = None
    timelines: Sequence[GateTimeline] = ()
    short: str = ""
    digest: str = ""
    inputs: str = ""

    @property
    def name(self) -> str:
        """The name beside the other model."""
        return self.short or self.title


@dataclass(frozen=True)
class FigureRow:
    """One metric of both models, and first minus second; ``tone`` colours a significant difference."""

    name: str
    one: str
    other: str
    difference: str = ""
    tone: str = ""
    utterances: int | None = None


@dataclass(frozen=True)
class Verdict:
    """The headline of the page: a word, the CSS class that colours it, and a sentence."""

    word: str
    tone: str
    sentence: str


@dataclass(frozen=True)
class Changes:
    """Number of test utterances by which model predicts them correctly."""

    both: int
    only_one: int
    only_other: int
    neither: int


class Pairing:
    """Paired differences, first model minus second, on the test split that both predicted."""

    def __init__(self, one: Predictions, other: Predictions) -> None:
        self._true, self._one, self._other = one.labels, one.predicted, other.predicted
        self._probabilities = one.probabilities.astype(np.float64), other.probabilities.astype(np.float64)
        self._classes = one.probabilities.shape[1]
        self._bootstrap = DialogueBootstrap(one.dialogues, RESAMPLES, SEED)

    def differences(self, figure: Figure) -> list[Interval]:
        """Difference of a metric; one interval per class for per-class metrics."""
        return self._bootstrap.differences(figure, self._true, self._one, self._other, self._classes)

    def brier_difference(self) -> Interval:
        """Difference of the Brier score."""
        hits = np.eye(self._classes)[self._true]
        scores = [((probabilities - hits) ** 2).sum(1) for probabilities in self._probabilities]
        difference = scores[0] - scores[1]
        draws = self._bootstrap.sums(difference) / self._bootstrap.sums(np.ones(len(difference)))
        return self._bootstrap.interval(float(difference.mean()), draws)

    def changes(self) -> Changes:
        """Count the utterances that both, one or neither of the models predicts correctly."""
        one, other = self._one == self._true, self._other == self._true
        counted = (one & other, one & ~other, ~one & other, ~one & ~other)
        return Changes(*(int(rows.sum()) for rows in counted))


def summary(one: ComparedModel, other: ComparedModel) -> str:
    """The headline sentence of the page, with the models' full names."""
    one, other = replace(one, short=""), replace(other, short="")
    return _verdict(one, other, *_paired(one, other)).sentence


def inputs_note(one: ComparedModel, other: ComparedModel) -> str:
    """A sentence for two models that read other inputs; empty if they read the same, or that is unknown."""
    if not (one.inputs and other.inputs) or one.inputs == other.inputs:
        return ""
    return (
        f"Their inputs differ: {one.name} reads {one.inputs}, and {other.name} reads {other.inputs}, so one cannot simply replace the other for "
        "the clients of an endpoint."
    )


def render_comparison(one: ComparedModel, other: ComparedModel) -> str:
    """Render the page as HTML.

    Args:
        one: the first model; differences are its metrics minus the other's.
        other: the second model.
    """
    if one.name == other.name:
        one, other = replace(one, short=f"{one.name} (first)"), replace(other, short=f"{other.name} (second)")
    pairing, obstacle = _paired(one, other)
    unreadable: list[str] = []
    shown = [Evaluated(m.evaluation, m.predictions, m.timelines, m.name) for m in (one, other)]
    return render_page(
        TEMPLATE,
        MACROS,
        one=one,
        other=other,
        facts=[(name, one.facts.get(name, ""), other.facts.get(name, "")) for name in {**one.facts, **other.facts}],
        verdict=_verdict(one, other, pairing, obstacle),
        inputs_note=inputs_note(one, other),
        paired=pairing is not None,
        same=bool(one.digest) and one.digest == other.digest,
        figures=_figures(shown, pairing),
        classes=_classes(shown, pairing),
        changes=pairing.changes() if pairing else None,
        view=evaluation_view(shown, unreadable.append),
        counted=counted,
        unreadable=unreadable,
    )


def _paired(one: ComparedModel, other: ComparedModel) -> tuple[Pairing | None, str]:
    """The paired differences, or None and the reason why the models cannot be paired."""
    if one.evaluation.test_digest != other.evaluation.test_digest or one.evaluation.labels != other.evaluation.labels:
        return None, (
            "Their test splits differ, so the models are not compared: the figures below are shown side by side, but "
            "their differences are not meaningful."
        )
    missing = [model.name for model in (one, other) if model.predictions is None]
    if one.predictions is None or other.predictions is None:
        return None, (
            f"The test split is the same, but the predictions of {' and of '.join(missing)} are missing, so paired "
            "differences cannot be computed."
        )
    if not one.predictions.same_test(other.predictions):
        return None, (
            "Their predictions cover different test utterances although the digests of their test splits are equal, so the "
            "models are not compared."
        )
    return Pairing(one.predictions, other.predictions), ""


def _verdict(one: ComparedModel, other: ComparedModel, pairing: Pairing | None, obstacle: str) -> Verdict:
    if one.digest and one.digest == other.digest:
        sentence = f"Both names stand for {one.title}, so there is nothing to compare: every difference is zero."
        return Verdict("same version", "soft", sentence)
    if pairing is None:
        return Verdict("not compared", "wait", obstacle)
    difference = pairing.differences(weighted_f1)[0]
    bounds = f"paired {COVERAGE} interval {difference.low:+z.3f} to {difference.high:+z.3f}"
    change = f"weighted F1 differs by {difference.value:+z.3f} ({bounds})"
    if difference.exactly_zero:
        return Verdict(
            "no difference",
            "soft",
            f"{one.name} is exactly as good as {other.name}: weighted F1 is the same in every resample.",
        )
    if difference.low > 0:
        return Verdict("better", "good", f"{one.name} is better than {other.name}: {change}.")
    if difference.high < 0:
        return Verdict("worse", "bad", f"{one.name} is worse than {other.name}: {change}.")
    sentence = f"The difference between {one.name} and {other.name} is not significant on this test split: {change}."
    return Verdict("undecided", "wait", sentence)


def _figures(shown: Sequence[Evaluated], pairing: Pairing | None) -> list[FigureRow]:
    rows = []
    for name, key, figure in _FIGURES:
        estimates = [model.estimate(key) for model in shown]
        if any(estimates):
            difference = _difference(key, figure, pairing)
            row = _row(name, estimates, difference, key in _LESS_IS_BETTER)
            rows.append(replace(row, difference="not measured") if pairing and difference is None else row)
    return rows


def _difference(key: str, figure: Figure | None, pairing: Pairing | None) -> Interval | None:
    if pairing is None:
        return None
    if key == "test.brier":
        return pairing.brier_difference()
    return pairing.differences(figure)[0] if figure else None


def _classes(shown: Sequence[Evaluated], pairing: Pairing | None) -> list[FigureRow]:
    labels = list(dict.fromkeys(label for model in shown for label in model.evaluation.labels))
    difference = (
        dict(zip(shown[0].evaluation.labels, pairing.differences(f1_per_class), strict=True)) if pairing else {}
    )
    rows = []
    for label in labels:
        estimates = [model.estimate(f"test.f1.{label}") for model in shown]
        support = shown[0].evaluation.metrics.get(f"test.support.{label}") if pairing else None
        row = _row(label, estimates, difference.get(label), False)
        rows.append(replace(row, utterances=None if support is None else int(support)))
    return rows


def _row(
    name: str, estimates: Sequence[Estimate | None], difference: Interval | None, less_is_better: bool
) -> FigureRow:
    one, other = (estimate_text(estimate) for estimate in estimates)
    if difference is None:
        return FigureRow(name, one, other)
    gain = difference.low > 0 if not less_is_better else difference.high < 0
    loss = difference.high < 0 if not less_is_better else difference.low > 0
    change = estimate_text(Estimate(value=difference.value, low=difference.low, high=difference.high), signed=True)
    return FigureRow(name, one, other, change, "good" if gain else "bad" if loss else "")
