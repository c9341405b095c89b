"""The page about a training: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.core.calibration import reliability
from components.core.config.mixture import MixtureConfig
from components.core.embeddings import EmbeddedDialogues
from components.core.gate_statistics import collapsed_gate
from components.core.metrics import confusion
from components.core.outcome import Estimate
from components.core.page import render_page
from components.report_run import plots
from components.report_run.curves import missing_modality_plot, reliability_plot, seeds_plot
from components.report_run.material import ExampleDialogue
from pipelines.training.ablation import Ablation, mean_curve
from pipelines.training.figures import Figures
from pipelines.training.trial import Trial

TEMPLATE = Path(__file__).parent / "page.html"
_TURNS = range(4, 17)


def render(
    config: MixtureConfig,
    data: EmbeddedDialogues,
    trials: Sequence[Trial],
    best: Trial,
    figures: Figures,
    ablation: Ablation | None,
    source: str,
) -> str:
    """The page as HTML.

    Args:
        config: the settings.
        data: what was trained on.
        trials: one a seed.
        best: the one whose model is kept.
        figures: of all together.
        ablation: the table, where it was asked for.
        source: where the embeddings came from, as it was typed.
    """
    experts = best.trained.model.experts
    true = np.concatenate([dialogue.labels for dialogue in data.split("test")])
    probabilities = np.concatenate([answer.probabilities for answer in best.answers])
    metrics = figures.metrics
    mixture = Estimate(value=figures.mixture.value, low=figures.mixture.low, high=figures.mixture.high)
    alone = {
        name.removesuffix(" alone"): Estimate(value=one.value, low=one.low, high=one.high)
        for name, one, _ in figures.rows
        if name.endswith(" alone")
    }
    curves = ablation.curves if ablation and ablation.curves else {"": mean_curve(trials)}
    return render_page(
        TEMPLATE,
        source=source,
        labels=data.labels,
        dimensions=data.dimensions,
        sizes={s: (len(data.split(s)), sum(map(len, data.split(s)))) for s in ("train", "dev", "test")},  # type: ignore[arg-type]
        seeds=[trial.seed for trial in trials],
        best=best,
        figures=figures,
        classes=[(label, metrics[f"test.f1.{label}"], int(metrics[f"test.support.{label}"])) for label in data.labels],
        gate=[(plots.spoken(n), metrics[f"test.gate.{n}.mean"], metrics[f"test.gate.{n}.led"]) for n in experts],
        collapse=collapsed_gate(metrics, experts),
        entropy=metrics.get("test.gate.entropy"),
        ece=metrics["test.ece"],
        ablation=ablation,
        plots={
            "experts": plots.experts_plot(mixture, alone, metrics["test.majority.weighted_f1"], None),
            "training": seeds_plot({trial.seed: trial.trained.history for trial in trials}),
            "confusion": plots.confusion_plot(confusion(true, probabilities.argmax(1), len(data.labels)), data.labels),  # type: ignore[arg-type]
            "reliability": reliability_plot(reliability(probabilities, true)),
            "missing": missing_modality_plot(curves),
            "classes": plots.classes_plot(
                {label: metrics[f"test.f1.{label}"] for label in data.labels},
                {label: metrics[f"test.support.{label}"] for label in data.labels},
            ),
        },
        dialogues=[
            (one.name, plots.dialogue_plot(one, experts, "+".join(best.trained.model.modalities)))
            for one in _examples(best, data)
        ],
        legend=[(plots.spoken(name), plots.expert_color(name, place)) for place, name in enumerate(experts)],
        settings=yaml.safe_dump({"mixture": config.model_dump(mode="json")}, sort_keys=False),
    )


def _examples(trial: Trial, data: EmbeddedDialogues, count: int = 4) -> list[ExampleDialogue]:
    """The test dialogues of a readable length in which the gate's weights move most."""
    pairs = list(zip(data.split("test"), trial.answers, strict=True))
    readable = [pair for pair in pairs if len(pair[0]) in _TURNS] or pairs
    readable.sort(key=lambda pair: -float(pair[1].expert_weights.std(axis=0).sum()))
    shown: list[ExampleDialogue] = []
    for dialogue, answer in readable[:count]:
        turns = min(len(dialogue), _TURNS.stop)
        shown.append(
            ExampleDialogue(
                name=dialogue.dialogue_id,
                turns=list(range(turns)),
                true=[data.labels[label] for label in dialogue.labels[:turns]],
                predicted=[data.labels[label] for label in answer.probabilities[:turns].argmax(1)],
                weights=answer.expert_weights[:turns].astype(np.float64),
                modalities=answer.modalities[:turns],
            )
        )
    return shown


def best_on_dev(trials: Sequence[Trial]) -> Trial:
    """The trial whose model is kept: the best on dev, the first among equals."""
    return max(trials, key=lambda trial: trial.trained.dev_weighted_f1)


def settings_of(config: MixtureConfig) -> dict[str, Any]:
    """The settings as plain data without the seed, which the trials carry."""
    return {name: value for name, value in config.model_dump(mode="json").items() if name != "seed"}
