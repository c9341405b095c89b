"""Plots, tables and sentences of one evaluation, or of two side by side, for the macros of ``evaluation.html``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mistere.common.counting import counted
from mistere.data.conditions import condition_named, usual_conditions
from mistere.metrics.calibration import reliability
from mistere.metrics.expert_gate import collapsed_gate, evenness_words
from mistere.metrics.gate_trust import trust_sentence
from mistere.metrics.missing_curve import curve_from_metrics
from mistere.metrics.robustness import PREFIX, robustness_from_metrics
from mistere.reports.calls.view import CallView, call_view
from mistere.reports.curves import missing_modality_plot, reliability_plot
from mistere.reports.evaluated_model import COVERAGE, Evaluated
from mistere.reports.evaluation_tables import (
    ShownDialogue,
    SliceTable,
    calibration_text,
    cost_rows,
    probe_sentence,
    shown_dialogue,
    slice_tables,
    unshared_parts,
    weakest_parts,
)
from mistere.reports.interval_plots import IntervalRow, experts_plot, interval_plot, losses_plot
from mistere.reports.plots import ACCENT, classes_plot, confusion_plot, expert_color, gate_plot, spoken
from mistere.runs.outcome import Estimate

if TYPE_CHECKING:
    from markupsafe import Markup

GATE_WORDS = (
    "The weight of an expert is its share in the logits of the mixture for one utterance; it is not the probability that the expert is "
    "right. An expert leads an utterance if it has the largest weight there. Evenness is the mean normalised entropy of the weights: 1 if "
    "all weights are equal, 0 if one expert has all of the weight."
)
"""What the figures of the gate mean."""
MACROS = Path(__file__).parent / "evaluation.html"
T = TypeVar("T")
OnProblem = Callable[[str], object]
"""Called with a sentence for each plot that could not be drawn."""


@dataclass(frozen=True)
class ModelView:
    """What a page shows of a single model.

    Attributes:
        title: names the model beside another one.
        confusion: the confusion matrix.
        gate: the mean gate weights.
        leads: how often each expert has the largest weight.
        trust: what the gate's weights say about which expert is right, in words.
        collapse: a warning if the gate relies on a single expert.
        calibration: expected calibration error and Brier score in words.
        weakest: the weakest slices in words.
        probe: the speaker probe in words.
        dialogues: the gate weights turn by turn.
    """

    title: str
    confusion: Markup | None
    gate: Markup | None
    leads: str
    trust: str
    collapse: str
    calibration: str
    weakest: str
    probe: str
    dialogues: list[ShownDialogue]


@dataclass(frozen=True)
class EvaluationView:
    """What a page shows of one or two models; a plot or ``calls`` is None, a table empty, if its metrics were not measured."""

    models: list[ModelView]
    experts: Markup | None
    classes: Markup | None
    reliability: Markup | None
    contributions: Markup | None
    missing: Markup | None
    robustness: Markup | None
    robustness_note: str
    calls: CallView | None
    slices: list[SliceTable]
    slices_note: str
    costs: list[tuple[str, list[str]]]
    legend: list[tuple[str, str]]
    coverage: str = COVERAGE
    gate_words: str = GATE_WORDS

    @property
    def titles(self) -> list[str]:
        """The models' names."""
        return [model.title for model in self.models]


def evaluation_view(
    models: Sequence[Evaluated],
    on_problem: OnProblem,
    champion: Estimate | None = None,
    champion_name: str = "previous champion",
) -> EvaluationView:
    """Draw and describe one evaluation, or two side by side.

    Args:
        models: one or two.
        on_problem: called for each plot that could not be drawn; the page is rendered without it.
        champion: the champion's weighted F1 on the same test split, shown beside a single model's experts.
        champion_name: what it is called there.
    """
    draw = partial(drawn, on_problem)
    first = models[0].evaluation
    experts = list(dict.fromkeys(name for model in models for name in model.evaluation.experts))
    return EvaluationView(
        models=[_model_view(model, models, on_problem) for model in models],
        experts=draw(lambda: _experts(models, experts, champion, champion_name)),
        classes=draw(lambda: _classes(models)),
        reliability=draw(lambda: _reliability(models)),
        contributions=draw(lambda: _contributions(models, experts)),
        missing=draw(lambda: _missing(models)),
        robustness=draw(lambda: _robustness(models)),
        robustness_note=_robustness_note(models),
        calls=draw(lambda: call_view(models, champion_name)),
        slices=slice_tables(models),
        slices_note=unshared_parts(models),
        costs=cost_rows(models),
        legend=[(spoken(name), expert_color(name, position)) for position, name in enumerate(first.experts)],
    )


def drawn(on_problem: OnProblem, draw: Callable[[], T | None]) -> T | None:
    """Draw a plot; on an error return None and report a sentence."""
    try:
        return draw()
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        on_problem(f"One plot could not be drawn from the recorded metrics ({reason}).")
        return None


def _model_view(model: Evaluated, models: Sequence[Evaluated], on_problem: OnProblem) -> ModelView:
    evaluation = model.evaluation
    metrics, experts = evaluation.metrics, evaluation.experts
    means = {name: metrics[key] for name in experts if (key := f"test.gate.{name}.mean") in metrics}
    dialogues = [
        drawn(on_problem, partial(shown_dialogue, timeline, experts))
        for timeline in model.timelines
        if len(experts) > 1
    ]
    return ModelView(
        title=model.title,
        confusion=drawn(on_problem, lambda: confusion_plot(evaluation.confusion, evaluation.labels)),
        gate=drawn(on_problem, lambda: gate_plot(means)) if len(means) > 1 else None,
        leads=_leads(metrics, experts),
        trust=trust_sentence(metrics, experts) if len(experts) > 1 else "",
        collapse=collapsed_gate(metrics, experts) or "",
        calibration=calibration_text(model),
        weakest=weakest_parts(model, models),
        probe=probe_sentence(model),
        dialogues=[dialogue for dialogue in dialogues if dialogue is not None],
    )


def _experts(
    models: Sequence[Evaluated], experts: Sequence[str], champion: Estimate | None, champion_name: str
) -> Markup | None:
    mixture = [model.estimate("test.weighted_f1") for model in models]
    alone = {name: [model.estimate(f"test.expert.{name}.weighted_f1") for model in models] for name in experts}
    alone = {name: values for name, values in alone.items() if any(values)}
    majority = models[0].evaluation.metrics.get("test.majority.weighted_f1") if len(models) == 1 else None
    return experts_plot(mixture, alone, majority, champion, champion_name)


def _classes(models: Sequence[Evaluated]) -> Markup | None:
    labels = dict.fromkeys(label for model in models for label in model.evaluation.labels)
    scores = {label: [model.estimate(f"test.f1.{label}") for model in models] for label in labels}
    if len(models) > 1:
        rows = [IntervalRow(label, values, ACCENT) for label, values in scores.items()]
        return interval_plot(rows, "F1", "F1 of each emotion for both models, with intervals")
    alone = {label: values[0] for label, values in scores.items() if values[0] is not None}
    support = {label: models[0].evaluation.metrics.get(f"test.support.{label}", 0.0) for label in labels}
    return classes_plot(alone, support) if alone else None


def _reliability(models: Sequence[Evaluated]) -> Markup | None:
    bins = {
        model.title: reliability(model.predictions.probabilities, model.predictions.labels)
        for model in models
        if model.predictions is not None and len(model.predictions.labels)
    }
    return reliability_plot(bins) if bins else None


def _contributions(models: Sequence[Evaluated], experts: Sequence[str]) -> Markup | None:
    rows = []
    for position, name in enumerate(experts):
        losses = [model.estimate(f"test.contribution.{name}") for model in models]
        if any(losses):
            rows.append(IntervalRow(f"without {spoken(name)}", losses, expert_color(name, position)))
    return losses_plot(rows, "Loss of weighted F1 without each expert, with intervals")


def _missing(models: Sequence[Evaluated]) -> Markup | None:
    curves = {model.title: curve_from_metrics(model.evaluation.metrics) for model in models}
    curves = {title: points for title, points in curves.items() if points}
    if not curves:
        return None
    return missing_modality_plot(curves, legend=len(models) == 1)  # a page of two has one legend for all plots


def _robustness(models: Sequence[Evaluated]) -> Markup | None:
    by_condition = [{point.condition: point for point in robustness_from_metrics(m.evaluation.metrics)} for m in models]
    rows = []
    for name in dict.fromkeys([*usual_conditions(), *(name for points in by_condition for name in points)]):
        points = [points.get(name) for points in by_condition]
        condition = condition_named(name)
        if any(points) and condition is not None:
            losses = [
                None if p is None else Estimate(value=p.loss.value, low=p.loss.low, high=p.loss.high) for p in points
            ]
            rows.append(IntervalRow(condition.words, losses, expert_color(condition.modality)))
    return losses_plot(rows, "Loss of weighted F1 for each degradation of the input, with intervals")


def _robustness_note(models: Sequence[Evaluated]) -> str:
    """The reference of the losses."""
    notes = []
    for model in models:
        clean = model.estimate(f"{PREFIX}clean.weighted_f1")
        if clean is None:
            continue
        made_by = model.evaluation.made_by
        limit = made_by.config.get("robustness_dialogues") if made_by else None
        count = min(limit, model.evaluation.dialogues) if isinstance(limit, int) else None
        on = f" on {counted(count, 'test dialogue')}" if count else ""
        notes.append(f"{model.title + ': ' if model.title else ''}relative to {clean.value:.3f} on clean input{on}")
    return "; ".join(notes)


def _leads(metrics: Mapping[str, float], experts: Sequence[str]) -> str:
    """How often each expert has the largest weight, in words."""
    shares = {name: metrics[key] for name in experts if (key := f"test.gate.{name}.led") in metrics}
    if len(shares) < 2:
        return ""
    leading = ", ".join(f"{spoken(name)} {100 * share:.0f} %" for name, share in shares.items())
    return "; ".join(filter(None, (f"leads: {leading}", evenness_words(metrics))))
