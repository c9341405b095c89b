"""Ablations of the mixture: train it without one part, over the same seeds, and compare with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mistere.common.errors import UsageError
from mistere.common.suggestions import did_you_mean
from mistere.config.evaluation import EvaluationConfig
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import Interval
from mistere.metrics.missing_curve import CurvePoint, curve_from_metrics
from mistere.model.embeddings import EmbeddedDialogues
from pipelines.cli.experiments.trial import Resamples, Trial, predicted, run_trial

NAMES = ("gate", "contrastive", "kl", "context", "modality_dropout", "fusion")
_DROPOUT = 0.1


@dataclass(frozen=True)
class Row:
    """One variant compared with the full model: weighted F1 on test over the seeds.

    Attributes:
        name: name of the ablation.
        title: what was changed.
        mean: mean over seeds; None if the change has no effect with these settings.
        std: standard deviation over seeds.
        difference: variant minus full model, paired.
        sentence: the result in words.
    """

    name: str
    title: str
    mean: float | None
    std: float
    difference: Interval | None
    sentence: str


@dataclass(frozen=True)
class Ablation:
    """The table, and, if ``modality_dropout`` is ablated, the missing-modality curves with and without it."""

    rows: list[Row]
    curves: dict[str, list[CurvePoint]]


def check_names(names: Sequence[str]) -> list[str]:
    """Validate the names and remove duplicates.

    Raises:
        UsageError: a name is unknown.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--ablate: unknown part {name!r}{did_you_mean(name, NAMES)}")
    return list(dict.fromkeys(names))


def variant(name: str, config: MixtureConfig, modalities: int) -> tuple[str, dict[str, object] | None]:
    """Title of an ablation and the settings it changes; None if it has no effect."""
    single = modalities < 2
    if name == "gate":
        return "mean of the experts instead of the gate", None if config.gate == "mean" else {"gate": "mean"}
    if name == "contrastive":
        return "no contrastive loss", {"contrastive_weight": 0.0} if config.contrastive_weight else None
    if name == "kl":
        return "no consistency (KL) loss", {"consistency_weight": 0.0} if config.consistency_weight else None
    if name == "context":
        return "no dialogue context", None if config.context == "utterance" else {"context": "utterance"}
    if name == "modality_dropout":
        if config.modality_dropout:
            return "no modality dropout", None if single else {"modality_dropout": 0.0}
        return f"modality dropout {_DROPOUT:g}", None if single else {"modality_dropout": _DROPOUT}
    other = "feed_forward" if config.fusion == "co_attention" else "co_attention"
    return f"{other.replace('_', '-')} fusion instead of {config.fusion.replace('_', '-')}", {"fusion": other}


def ablate(
    names: Sequence[str],
    config: MixtureConfig,
    data: EmbeddedDialogues,
    full: Sequence[Trial],
    evaluation: EvaluationConfig,
    train: Callable[[str, MixtureConfig], Trial] | None = None,
) -> Ablation:
    """Train each variant with the full model's seeds and compare.

    Args:
        names: ablations, from :data:`NAMES`.
        config: the full model's settings.
        data: embeddings.
        full: trials of the full model.
        evaluation: resampling settings; variant and full model share the resamples.
        train: trains a variant, given its name and settings; :func:`run_trial` by default.
    """
    resamples = Resamples(data, evaluation)
    base = [predicted(trial) for trial in full]
    rows: list[Row] = []
    curves: dict[str, list[CurvePoint]] = {}
    for name in check_names(names):
        title, changes = variant(name, config, len(data.dimensions))
        if changes is None:
            rows.append(Row(name, title, None, 0.0, None, f"{title}: no effect with these settings and modalities."))
            continue
        changed = config.model_copy(update=changes)
        trials = []
        for trial in full:
            settings = changed.model_copy(update={"seed": trial.seed})
            trials.append(train(name, settings) if train else run_trial(settings, data, evaluation))
        scores = [trial.metrics["test.weighted_f1"] for trial in trials]
        difference = resamples.difference([predicted(trial) for trial in trials], base)
        rows.append(Row(name, title, float(np.mean(scores)), spread(scores), difference, _sentence(title, difference)))
        if name == "modality_dropout":
            with_it, without = (full, trials) if config.modality_dropout else (trials, full)
            curves = {"with modality dropout": mean_curve(with_it), "without": mean_curve(without)}
    return Ablation(rows, curves)


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def mean_curve(trials: Sequence[Trial]) -> list[CurvePoint]:
    """The missing-modality curve averaged over seeds, including its bounds."""
    curves = [curve_from_metrics(trial.metrics) for trial in trials]
    points = []
    for same in zip(*curves, strict=True):
        values = np.mean([[p.weighted_f1.value, p.weighted_f1.low, p.weighted_f1.high] for p in same], axis=0)
        points.append(CurvePoint(same[0].modality, same[0].share, Interval(*map(float, values))))
    return points


def _sentence(title: str, difference: Interval) -> str:
    points, low, high = (100 * value for value in (difference.value, difference.low, difference.high))
    conclusion = "a clear loss" if high < 0 else "a clear gain" if low > 0 else "within the noise"
    return f"{title}: {points:+z.1f} points [{low:+z.1f}, {high:+z.1f}], {conclusion}."
