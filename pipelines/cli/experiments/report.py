"""Render the report of a training as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mistere.common.counting import counted, plural
from mistere.common.splits import SPLITS
from mistere.config.mixture import MixtureConfig
from mistere.evaluation.gate_timeline import GateTimeline, liveliest
from mistere.metrics.calibration import reliability
from mistere.metrics.classification import confusion
from mistere.metrics.expert_gate import collapsed_gate, evenness_words
from mistere.metrics.gate_trust import trust_sentence
from mistere.metrics.mixture_gain import gain_from_metrics, gain_sentence
from mistere.metrics.modality_choice import ModalityChoice
from mistere.model.embeddings import EmbeddedDialogues
from mistere.reports import plots
from mistere.reports.curves import missing_modality_plot, reliability_plot, seeds_plot
from mistere.reports.evaluation_tables import shown_dialogue
from mistere.reports.evaluation_view import GATE_WORDS, MACROS
from mistere.reports.html_page import render_page
from mistere.reports.interval_plots import experts_plot
from mistere.runs.outcome import Estimate
from pipelines.cli.experiments.ablation import Ablation, mean_curve
from pipelines.cli.experiments.figures import Figures
from pipelines.cli.experiments.trial import Trial, owners

TEMPLATE = Path(__file__).parent / "page.html"
_DIALOGUES = 4


def render(
    config: MixtureConfig,
    data: EmbeddedDialogues,
    trials: Sequence[Trial],
    best: Trial,
    figures: Figures,
    ablation: Ablation | None,
    source: str,
    choice: ModalityChoice | None = None,
    *,
    automatic: str = "",
    notes: Sequence[str] = (),
) -> str:
    """Render the page as HTML.

    Args:
        config: the settings.
        data: the embeddings.
        trials: one per seed.
        best: the trial whose model is kept.
        figures: metrics over all trials.
        ablation: the ablation table, if requested.
        source: location of the embeddings, as given on the command line.
        choice: the comparison of the subsets of the modalities, if it was made.
        automatic: a line with the settings that were ``auto``.
        notes: what is remarkable about the embeddings.
    """
    experts = best.trained.model.experts
    true, probabilities = best.scored.labels, best.scored.probabilities
    metrics = figures.metrics
    gain = gain_from_metrics(metrics, experts)
    mixture = Estimate(value=figures.mixture.value, low=figures.mixture.low, high=figures.mixture.high)
    alone = {
        name.removesuffix(" alone"): [Estimate(value=one.value, low=one.low, high=one.high)]
        for name, one, _ in figures.rows
        if name.endswith(" alone")
    }
    curves = ablation.curves if ablation and ablation.curves else {"": mean_curve(trials)}
    return render_page(
        TEMPLATE,
        MACROS,
        source=source,
        labels=data.labels,
        dimensions=data.dimensions,
        sizes={split: (len(data.split(split)), len(owners(data.split(split)))) for split in SPLITS},
        context=sum(int((~dialogue.labelled).sum()) for split in SPLITS for dialogue in data.split(split)),
        seeds=[trial.seed for trial in trials],
        best=best,
        figures=figures,
        classes=[(label, metrics[f"test.f1.{label}"], int(metrics[f"test.support.{label}"])) for label in data.labels],
        gate=[
            (plots.spoken(n), metrics[f"test.gate.{n}.mean"], metrics[f"test.gate.{n}.led"], *_auc_of(metrics, n))
            for n in experts
        ],
        trust=trust_sentence(metrics),
        simpler=gain_sentence(gain) if gain else "",
        gain=gain,
        counted=counted,
        plural=plural,
        collapse=collapsed_gate(metrics, experts),
        evenness=evenness_words(metrics),
        gate_words=GATE_WORDS,
        ece=metrics["test.ece"],
        ablation=ablation,
        choice=choice,
        automatic=automatic,
        notes=notes,
        plots={
            "experts": experts_plot([mixture], alone, metrics["test.majority.weighted_f1"]),
            "training": seeds_plot({trial.seed: trial.trained.history for trial in trials}),
            "confusion": plots.confusion_plot(confusion(true, probabilities.argmax(1), len(data.labels)), data.labels),  # type: ignore[arg-type]
            "reliability": reliability_plot({"": reliability(probabilities, true)}),
            "missing": missing_modality_plot(curves),
            "classes": plots.classes_plot(
                {label: one for label in data.labels if (one := Estimate.of(metrics, f"test.f1.{label}"))},
                {label: metrics[f"test.support.{label}"] for label in data.labels},
            ),
        },
        dialogues=[shown_dialogue(one, experts) for one in _timelines(best, data)],
        legend=[(plots.spoken(name), plots.expert_color(name, index)) for index, name in enumerate(experts)],
        settings=yaml.safe_dump({"mixture": config.model_dump(mode="json")}, sort_keys=False),
    )


def _auc_of(metrics: Mapping[str, float], expert: str) -> tuple[float | None, float | None]:
    """AUC of the expert's weight and of its confidence; None for an expert that is always right or always wrong."""
    return metrics.get(f"test.gate.{expert}.auc"), metrics.get(f"test.gate.{expert}.confidence_auc")


def _timelines(trial: Trial, data: EmbeddedDialogues) -> list[GateTimeline]:
    test = data.split("test")
    names, classes = [dialogue.dialogue_id for dialogue in test], [dialogue.labels for dialogue in test]
    return liveliest(names, trial.answers, classes, data.labels, _DIALOGUES)


def best_on_dev(trials: Sequence[Trial]) -> Trial:
    """The trial whose model is kept: the best on dev; the first one if several are equal."""
    return max(trials, key=lambda trial: trial.trained.dev_weighted_f1)


def settings_of(config: MixtureConfig) -> dict[str, Any]:
    """The settings as plain data without the seed, which the trials carry."""
    return {name: value for name, value in config.model_dump(mode="json").items() if name != "seed"}
