"""Metrics of a test split from its predictions, and the file of predictions that comparisons read.

Everything here is arithmetic on the results of :func:`mistere.model.mixture.prediction.predict`; no model runs. The cost is one
matrix product for each metric with an interval (2,000 resamples of 2,600 utterances: 10 ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.metrics.calibration import Calibration
from mistere.metrics.classification import (
    DialogueBootstrap,
    Interval,
    accuracy,
    confusion,
    f1_per_class,
    macro_f1,
    weighted_f1,
)
from mistere.metrics.expert_gate import gate_statistics
from mistere.metrics.gate_trust import GateTrust
from mistere.metrics.mixture_gain import gain_metrics
from mistere.model.dialogue_prediction import DialoguePrediction
from mistere.model.embeddings import UNLABELLED


@dataclass(frozen=True)
class Measured:
    """Flat metrics (``test.weighted_f1`` and the like) and confusion counts ``[C, C]``."""

    metrics: dict[str, float]
    confusion: np.ndarray


@dataclass(frozen=True)
class Answers:
    """Predictions of N utterances, dialogue after dialogue.

    Attributes:
        probabilities: ``[N, C]``.
        weights: the gate's weights ``[N, E]``.
        by_expert: the experts' probabilities ``[N, E, C]``.
        modalities: of each utterance, joined by ``+``.
        dialogues: the dialogue of each utterance.
    """

    probabilities: np.ndarray
    weights: np.ndarray
    by_expert: np.ndarray
    modalities: list[str]
    dialogues: list[str]

    @classmethod
    def of(cls, answers: Sequence[DialoguePrediction], dialogues: Sequence[str]) -> Answers:
        """Concatenate the predictions of dialogues, given with the dialogues' names."""
        return cls(
            np.concatenate([answer.probabilities for answer in answers]),
            np.concatenate([answer.expert_weights for answer in answers]),
            np.concatenate([answer.expert_probabilities for answer in answers]),
            [name for answer in answers for name in answer.modalities],
            [name for name, answer in zip(dialogues, answers, strict=True) for _ in range(len(answer.probabilities))],
        )

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each utterance ``[N]``."""
        return np.asarray(self.probabilities.argmax(1))

    def without(self, expert: int) -> np.ndarray:
        """Classes ``[N]`` with one expert masked and the gate's weights of the others renormalised.

        The mixture's logits are the weighted sum of the experts'; the logarithms of their probabilities differ from their
        logits by a constant for each utterance, which changes no class. If no other expert is present, the prediction stays.
        """
        weights = self.weights.astype(np.float64)
        weights[:, expert] = 0
        alone = weights.sum(1) == 0
        weights /= np.where(alone, 1, weights.sum(1))[:, None]
        logits = (weights[..., None] * np.log(np.maximum(self.by_expert, 1e-30))).sum(1)
        return np.where(alone, self.predicted, logits.argmax(1))

    def alone(self, expert: int) -> np.ndarray:
        """Classes ``[N]`` of one expert; the mixture's own where that expert is absent, so that all utterances have one."""
        return np.where(self.weights[:, expert] > 0, self.by_expert[:, expert].argmax(1), self.predicted)

    def plain_mean(self) -> np.ndarray:
        """Classes ``[N]`` of the mixture with equal weights for the present experts, which a fitted gate has calibrated on dev."""
        logits = np.log(np.maximum(self.by_expert.astype(np.float64), 1e-30)) * (self.weights > 0)[..., None]
        return np.asarray(logits.sum(1).argmax(1))


def measure(
    answers: Sequence[DialoguePrediction],
    true: np.ndarray,
    dialogues: Sequence[str],
    labels: Sequence[str],
    experts: Sequence[str],
    config: EvaluationConfig,
) -> Measured:
    """Metrics of a test split.

    Args:
        answers: a prediction for each dialogue.
        true: true classes ``[N]``, dialogue by dialogue.
        dialogues: name of each dialogue.
        labels: names of the classes.
        experts: names of the experts.
        config: resamples and seed.
    """
    classes = len(labels)
    flat = Answers.of(answers, dialogues)
    bootstrap = DialogueBootstrap(flat.dialogues, config.resamples, config.seed)
    predicted = flat.predicted
    counts = confusion(true, predicted, classes)
    metrics: dict[str, float] = {}
    for name, figure in (("weighted_f1", weighted_f1), ("macro_f1", macro_f1), ("accuracy", accuracy)):
        put(metrics, f"test.{name}", bootstrap.estimates(figure, true, predicted, classes)[0])
    scores = bootstrap.estimates(f1_per_class, true, predicted, classes)
    for index, (label, score) in enumerate(zip(labels, scores, strict=True)):
        put(metrics, f"test.f1.{label}", score)
        metrics[f"test.support.{label}"] = float(counts[index].sum())
    metrics |= _experts(flat, true, experts, bootstrap, classes, config)
    metrics |= gate_statistics(flat.weights, experts).metrics("test.")
    if len(experts) > 1:
        metrics |= GateTrust(flat.weights, flat.by_expert, true).metrics(experts, bootstrap, "test.")
        metrics |= _gains(flat, true, experts, classes, config)
    calibration = Calibration(flat.probabilities, true)
    put(metrics, "test.ece", calibration.expected_error(bootstrap))
    put(metrics, "test.brier", calibration.brier_score(bootstrap))
    if len(experts) > 2:
        put(metrics, "test.late_fusion.weighted_f1", bootstrap.weighted_f1(true, late_fusion(answers), classes))
    majority = np.full_like(true, np.bincount(true, minlength=classes).argmax())
    metrics["test.majority.weighted_f1"] = float(weighted_f1(confusion(true, majority, classes)))
    return Measured(rounded(metrics), counts)


def _experts(
    flat: Answers,
    true: np.ndarray,
    experts: Sequence[str],
    bootstrap: DialogueBootstrap,
    classes: int,
    config: EvaluationConfig,
) -> dict[str, float]:
    """Metrics of each expert alone, on utterances where it is present, and the mixture's loss without it."""
    metrics: dict[str, float] = {}
    predicted = flat.predicted
    names = np.asarray(flat.dialogues, dtype=object)
    for index, expert in enumerate(experts):
        present = flat.weights[:, index] > 0  # an absent expert has a uniform row, which is not a prediction
        if present.all():
            alone = bootstrap.weighted_f1(true, flat.by_expert[:, index].argmax(1), classes)
        elif present.any():
            part = DialogueBootstrap(list(names[present]), config.resamples, config.seed)
            alone = part.weighted_f1(true[present], flat.by_expert[present, index].argmax(1), classes)
        else:
            continue
        put(metrics, f"test.expert.{expert}.weighted_f1", alone)
        metrics[f"test.expert.{expert}.support"] = float(present.sum())
        if len(experts) > 1:
            lost = bootstrap.weighted_f1_difference(true, predicted, flat.without(index), classes)
            put(metrics, f"test.contribution.{expert}", lost)
    return metrics


def _gains(
    flat: Answers, true: np.ndarray, experts: Sequence[str], classes: int, config: EvaluationConfig
) -> dict[str, float]:
    """Weighted F1 of the mixture minus that of each expert alone and of their plain mean, paired over the same resamples."""
    bootstrap = DialogueBootstrap(flat.dialogues, config.resamples, config.seed, config.gain_coverage)

    def gain(other: np.ndarray) -> Interval:
        return bootstrap.weighted_f1_difference(true, flat.predicted, other, classes)

    over_experts = {name: gain(flat.alone(index)) for index, name in enumerate(experts)}
    return gain_metrics(over_experts, gain(flat.plain_mean()), config.gain_coverage)


def late_fusion(answers: Sequence[DialoguePrediction]) -> np.ndarray:
    """Late-fusion baseline: classes ``[N]`` by the mean probabilities of the present unimodal experts."""
    weights = np.concatenate([answer.expert_weights for answer in answers])[:, :-1]
    experts = np.concatenate([answer.expert_probabilities for answer in answers])[:, :-1]
    return (experts * (weights > 0)[..., None]).sum(1).argmax(1)


def put(metrics: dict[str, float], name: str, interval: Interval) -> None:
    """Add a metric and its bounds: ``name``, ``name.low``, ``name.high``."""
    metrics[name], metrics[f"{name}.low"], metrics[f"{name}.high"] = interval.value, interval.low, interval.high


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    """Round to eight decimals, since further digits depend on the order of additions."""
    return {name: round(value, 8) for name, value in metrics.items()}


def write_predictions(
    path: Path, answers: Sequence[DialoguePrediction], labels: Sequence[np.ndarray], dialogues: Sequence[str]
) -> None:
    """Write a row for each labelled turn: dialogue, turn, true label, probabilities, gate weights, experts' probabilities.

    Args:
        path: the file.
        answers: the prediction for each whole dialogue.
        labels: classes ``[n]`` of each dialogue; :data:`~mistere.model.embeddings.UNLABELLED` for a turn that gets no row.
        dialogues: name of each dialogue.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    masks = [classes != UNLABELLED for classes in labels]
    flat = Answers.of([answer.only(mask) for answer, mask in zip(answers, masks, strict=True)], dialogues)
    table = pa.table(
        {
            "dialogue_id": flat.dialogues,
            "turn": pa.array(np.concatenate([np.flatnonzero(mask) for mask in masks]), pa.int32()),
            "label": pa.array(np.concatenate(list(labels))[np.concatenate(masks)], pa.int32()),
            "probabilities": _rows(flat.probabilities),
            "expert_weights": _rows(flat.weights),
            "expert_probabilities": _rows(flat.by_expert),
            "modalities": flat.modalities,
        }
    )
    pq.write_table(table, path, compression="zstd")


def _rows(values: np.ndarray) -> object:
    import pyarrow as pa

    rows = values.astype(np.float32).reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float32()), rows.shape[1])
