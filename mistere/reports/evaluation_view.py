"""The figures of one evaluation, or of two beside each other, drawn and worded; the macros of ``evaluation.html`` show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mistere.config.evaluation import CONDITIONS
from mistere.metrics.calibration import reliability
from mistere.metrics.expert_gate import collapsed_gate
from mistere.metrics.missing_curve import curve_from_metrics
from mistere.metrics.robustness import PREFIX, robustness_from_metrics
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
    weakest_parts,
)
from mistere.reports.interval_plots import DotRow, dots_plot, experts_plot, losses_plot
from mistere.reports.plots import ACCENT, classes_plot, confusion_plot, expert_color, gate_plot, spoken
from mistere.runs.outcome import Estimate

if TYPE_CHECKING:
    from markupsafe import Markup

MACROS = Path(__file__).parent / "evaluation.html"
T = TypeVar("T")
Tell = Callable[[str], None]
"""Hears a sentence about each picture that could not be drawn."""


@dataclass(frozen=True)
class ModelView:
    """What is shown of one model by itself.

    Attributes:
        title: names it beside another.
        confusion: its confusion matrix.
        gate: its gate's mean weights.
        leads: how often each expert weighs most.
        collapse: a sentence where the gate trusts one expert alone.
        calibration: expected calibration error and Brier score in words.
        weakest: the slices that are worse than the whole.
        probe: the speaker probe in words.
        dialogues: the gate at work.
    """

    title: str
    confusion: Markup | None
    gate: Markup | None
    leads: str
    collapse: str
    calibration: str
    weakest: str
    probe: str
    dialogues: list[ShownDialogue]


@dataclass(frozen=True)
class EvaluationView:
    """What is shown of one model or of two; a picture is None, a table empty, where its figures were not measured."""

    models: list[ModelView]
    experts: Markup | None
    classes: Markup | None
    reliability: Markup | None
    contributions: Markup | None
    missing: Markup | None
    robustness: Markup | None
    robustness_note: str
    slices: list[SliceTable]
    costs: list[tuple[str, list[str]]]
    legend: list[tuple[str, str]]
    coverage: str = COVERAGE

    @property
    def titles(self) -> list[str]:
        """The models' names."""
        return [model.title for model in self.models]


def evaluation_view(models: Sequence[Evaluated], tell: Tell, champion: Estimate | None = None) -> EvaluationView:
    """Draw and word one evaluation, or two of them.

    Args:
        models: one, or two to be shown side by side.
        tell: hears of each picture that could not be drawn: one odd figure must not cost the page.
        champion: a champion's figure on the same test split, shown beside a single model's experts.
    """
    draw = partial(drawn, tell)
    first = models[0].evaluation
    experts = list(dict.fromkeys(name for model in models for name in model.evaluation.experts))
    return EvaluationView(
        models=[_model_view(model, tell) for model in models],
        experts=draw(lambda: _experts(models, experts, champion)),
        classes=draw(lambda: _classes(models)),
        reliability=draw(lambda: _reliability(models)),
        contributions=draw(lambda: _contributions(models, experts)),
        missing=draw(lambda: _missing(models)),
        robustness=draw(lambda: _robustness(models)),
        robustness_note=_robustness_note(models),
        slices=slice_tables(models),
        costs=cost_rows(models),
        legend=[(spoken(name), expert_color(name, place)) for place, name in enumerate(first.experts)],
    )


def drawn(tell: Tell, draw: Callable[[], T | None]) -> T | None:
    """A picture, or a sentence about why it could not be drawn."""
    try:
        return draw()
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        tell(f"One picture could not be drawn from the recorded figures ({reason}).")
        return None


def _model_view(model: Evaluated, tell: Tell) -> ModelView:
    evaluation = model.evaluation
    metrics, experts = evaluation.metrics, evaluation.experts
    means = {name: metrics[key] for name in experts if (key := f"test.gate.{name}.mean") in metrics}
    dialogues = [
        drawn(tell, partial(shown_dialogue, timeline, experts)) for timeline in model.timelines if len(experts) > 1
    ]
    return ModelView(
        title=model.title,
        confusion=drawn(tell, lambda: confusion_plot(evaluation.confusion, evaluation.labels)),
        gate=drawn(tell, lambda: gate_plot(means)) if len(means) > 1 else None,
        leads=_leads(metrics, experts),
        collapse=collapsed_gate(metrics, experts) or "",
        calibration=calibration_text(model),
        weakest=weakest_parts(model),
        probe=probe_sentence(model),
        dialogues=[dialogue for dialogue in dialogues if dialogue is not None],
    )


def _experts(models: Sequence[Evaluated], experts: Sequence[str], champion: Estimate | None) -> Markup | None:
    mixture = [model.estimate("test.weighted_f1") for model in models]
    alone = {name: [model.estimate(f"test.expert.{name}.weighted_f1") for model in models] for name in experts}
    alone = {name: values for name, values in alone.items() if any(values)}
    majority = models[0].evaluation.metrics.get("test.majority.weighted_f1") if len(models) == 1 else None
    return experts_plot(mixture, alone, majority, champion)


def _classes(models: Sequence[Evaluated]) -> Markup | None:
    labels = dict.fromkeys(label for model in models for label in model.evaluation.labels)
    scores = {label: [model.estimate(f"test.f1.{label}") for model in models] for label in labels}
    if len(models) > 1:
        rows = [DotRow(label, values, ACCENT) for label, values in scores.items()]
        return dots_plot(rows, "F1", "F1 of each emotion of both models, with intervals")
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
    for place, name in enumerate(experts):
        lost = [model.estimate(f"test.contribution.{name}") for model in models]
        if any(lost):
            rows.append(DotRow(f"without {spoken(name)}", lost, expert_color(name, place)))
    return losses_plot(rows, "Weighted F1 that is lost without each expert, with intervals")


def _missing(models: Sequence[Evaluated]) -> Markup | None:
    curves = {model.title: curve_from_metrics(model.evaluation.metrics) for model in models}
    curves = {title: points for title, points in curves.items() if points}
    return missing_modality_plot(curves) if curves else None


def _robustness(models: Sequence[Evaluated]) -> Markup | None:
    found = [{point.condition: point for point in robustness_from_metrics(m.evaluation.metrics)} for m in models]
    rows = []
    for condition, (modality, words) in CONDITIONS.items():
        points = [points.get(condition) for points in found]
        if any(points):
            lost = [
                None if p is None else Estimate(value=p.loss.value, low=p.loss.low, high=p.loss.high) for p in points
            ]
            rows.append(DotRow(words, lost, expert_color(modality)))
    return losses_plot(rows, "Weighted F1 that is lost under each degradation of the input, with intervals")


def _robustness_note(models: Sequence[Evaluated]) -> str:
    """What the losses are measured against."""
    told = []
    for model in models:
        clean = model.estimate(f"{PREFIX}clean.weighted_f1")
        if clean is None:
            continue
        made_by = model.evaluation.made_by
        most = made_by.config.get("robustness_dialogues") if made_by else None
        count = min(most, model.evaluation.dialogues) if isinstance(most, int) else None
        on = f" on {count} test dialogues" if count else ""
        told.append(f"{model.title + ': ' if model.title else ''}against {clean.value:.3f} undisturbed{on}")
    return "; ".join(told)


def _leads(metrics: Mapping[str, float], experts: Sequence[str]) -> str:
    """How often each expert weighs most, in a sentence."""
    shares = {name: metrics[key] for name in experts if (key := f"test.gate.{name}.led") in metrics}
    if len(shares) < 2:
        return ""
    told = ", ".join(f"{spoken(name)} {100 * share:.0f} %" for name, share in shares.items())
    entropy = metrics.get("test.gate.entropy")
    return f"leads: {told}" + (f"; evenness {entropy:.2f} of 1" if entropy is not None else "")
