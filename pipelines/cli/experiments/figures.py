"""Summarize several trials: means over seeds with intervals, as metrics and as table rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.metrics.classification import Interval
from mistere.metrics.modality_choice import ModalityChoice
from mistere.model.embeddings import EmbeddedDialogues
from pipelines.cli.experiments.ablation import Ablation, spread
from pipelines.cli.experiments.modality_comparison import as_rows
from pipelines.cli.experiments.trial import Resamples, Trial, predicted


@dataclass(frozen=True)
class Figures:
    """Metrics of a training over all seeds.

    Attributes:
        mixture: weighted F1 on test, averaged over the seeds, with its interval.
        std: its standard deviation over the seeds.
        rows: each expert alone and late fusion: name, mean, low, high, std.
        gain: mixture minus the better unimodal expert, paired; None with one modality.
        over_late_fusion: mixture minus late fusion, paired; None with one modality.
        metrics: all metrics, flat: means over the seeds, and their standard deviations under ``.std``.
    """

    mixture: Interval
    std: float
    rows: list[tuple[str, Interval, float]]
    gain: Interval | None
    over_late_fusion: Interval | None
    metrics: dict[str, float]


def summarize(trials: Sequence[Trial], data: EmbeddedDialogues, evaluation: EvaluationConfig) -> Figures:
    """Average the metrics over the seeds.

    Intervals come from resampling test dialogues, with the same resamples for every seed. If an expert is missing for some
    utterances, its interval is the mean of the seeds' bounds over the utterances that it predicts.
    """
    from mistere.evaluation.split_metrics import late_fusion

    resamples = Resamples(data, evaluation)
    mixture = resamples.mean([predicted(trial) for trial in trials])
    metrics = _means([trial.metrics for trial in trials])
    metrics |= {"test.weighted_f1.low": mixture.low, "test.weighted_f1.high": mixture.high}
    rows: list[tuple[str, Interval, float]] = []
    named = [(f"{name} alone", f"test.expert.{name}.weighted_f1") for name in trials[0].trained.model.experts]
    for title, key in [*named, ("late fusion", "test.late_fusion.weighted_f1")]:
        if key in metrics:
            interval = Interval(metrics[key], metrics[f"{key}.low"], metrics[f"{key}.high"])
            rows.append((title, interval, metrics.get(f"{key}.std", 0.0)))
    gain = over = None
    if len(data.dimensions) > 1:
        gain = resamples.difference([predicted(trial) for trial in trials], [_best_single(trial) for trial in trials])
        over = resamples.difference(
            [predicted(trial) for trial in trials], [late_fusion(trial.scored.predictions) for trial in trials]
        )
        for name, interval_of_gain in (("gain_over_best_single", gain), ("gain_over_late_fusion", over)):
            metrics |= {
                f"test.{name}": interval_of_gain.value,
                f"test.{name}.low": interval_of_gain.low,
                f"test.{name}.high": interval_of_gain.high,
            }
    std = spread([trial.metrics["test.weighted_f1"] for trial in trials])
    return Figures(mixture, std, rows, gain, over, metrics)


def _best_single(trial: Trial) -> np.ndarray:
    """Predictions of the unimodal expert that is best on this test split, so the mixture is compared with the strongest one."""
    modalities = trial.trained.model.modalities
    scores = [trial.metrics.get(f"test.expert.{name}.weighted_f1", 0.0) for name in modalities]
    experts = trial.scored.expert_probabilities
    return experts[:, int(np.argmax(scores))].argmax(1)


def _means(all_metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    means: dict[str, float] = {}
    for key in all_metrics[0]:
        values = [metrics[key] for metrics in all_metrics if key in metrics]
        means[key] = float(np.mean(values))
        if len(all_metrics) > 1 and not key.endswith((".low", ".high")):
            means[f"{key}.std"] = spread(values)
    return means


def as_json(
    figures: Figures,
    trials: Sequence[Trial],
    ablation: Ablation | None,
    choice: ModalityChoice | None = None,
    automatic: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of ``metrics.json``.

    Args:
        figures: metrics over all trials.
        trials: one per seed.
        ablation: the ablation table, if requested.
        choice: the comparison of the subsets of the modalities, if it was made.
        automatic: values of the settings that were ``auto``.
        notes: what is remarkable about the embeddings.
    """
    content: dict[str, Any] = {name: round(value, 8) for name, value in sorted(figures.metrics.items())}
    if automatic:
        content["automatic"] = dict(automatic)
    if notes:
        content["notes"] = list(notes)
    if len(trials) > 1:
        content["seeds"] = [{"seed": trial.seed} | trial.metrics for trial in trials]
    if choice:
        content["modalities"] = {
            "chosen": list(choice.chosen.modalities),
            "winner": list(choice.winner.modalities),
            "finding": choice.sentence(),
            "subsets": as_rows(choice.subsets, "dev.weighted_f1"),
            "brings": {name: [one.value, one.low, one.high] for name, one in choice.contributions().items()},
        }
    if ablation:
        content["ablation"] = [
            {
                "name": row.name,
                "title": row.title,
                "test.weighted_f1": row.mean,
                "std": row.std,
                "difference": row.difference and [row.difference.value, row.difference.low, row.difference.high],
                "finding": row.sentence,
            }
            for row in ablation.rows
        ]
    return content
