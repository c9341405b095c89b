"""The figures of a test split from its predictions, and the predictions as a file that comparisons are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.core.calibration import reliability
from components.core.config.evaluation import EvaluationConfig
from components.core.gate_statistics import gate_statistics
from components.core.metrics import (
    DialogueBootstrap,
    Interval,
    accuracy,
    confusion,
    f1_per_class,
    macro_f1,
    weighted_f1,
)
from components.core.moe.prediction import DialoguePrediction


@dataclass(frozen=True)
class Measured:
    """Flat metrics (``test.weighted_f1`` and the like) and confusion counts ``[C, C]``."""

    metrics: dict[str, float]
    confusion: np.ndarray


def measure(
    answers: Sequence[DialoguePrediction],
    true: np.ndarray,
    dialogues: Sequence[str],
    labels: Sequence[str],
    experts: Sequence[str],
    config: EvaluationConfig,
) -> Measured:
    """Figures of a test split.

    Args:
        answers: one an dialogue.
        true: labels ``[N]``, dialogue by dialogue.
        dialogues: the dialogues' names, one an answer.
        labels: their names.
        experts: their names.
        config: resamples and coverage.
    """
    classes = len(labels)
    names = np.repeat(np.asarray(dialogues, dtype=object), [len(answer.probabilities) for answer in answers])
    bootstrap = DialogueBootstrap(list(names), config.resamples, config.seed)
    probabilities = np.concatenate([answer.probabilities for answer in answers])
    weights = np.concatenate([answer.expert_weights for answer in answers])
    by_expert = np.concatenate([answer.expert_probabilities for answer in answers])
    predicted = probabilities.argmax(1)
    counts = confusion(true, predicted, classes)
    metrics: dict[str, float] = {}
    _put(metrics, "test.weighted_f1", bootstrap.weighted_f1(true, predicted, classes))
    metrics["test.macro_f1"] = float(macro_f1(counts))
    metrics["test.accuracy"] = float(accuracy(counts))
    for index, (label, score) in enumerate(zip(labels, f1_per_class(counts), strict=True)):
        metrics[f"test.f1.{label}"] = float(score)
        metrics[f"test.support.{label}"] = float(counts[index].sum())
    for index, expert in enumerate(experts):
        there = weights[:, index] > 0  # an absent expert says nothing; its uniform row is no answer
        if there.all():
            alone = bootstrap.weighted_f1(true, by_expert[:, index].argmax(1), classes)
        elif there.any():
            part = DialogueBootstrap(list(names[there]), config.resamples, config.seed)
            alone = part.weighted_f1(true[there], by_expert[there, index].argmax(1), classes)
        else:
            continue
        _put(metrics, f"test.expert.{expert}.weighted_f1", alone)
        metrics[f"test.expert.{expert}.support"] = float(there.sum())
    metrics |= gate_statistics(weights, experts).metrics("test.")
    metrics["test.ece"] = reliability(probabilities, true).expected_calibration_error
    if len(experts) > 2:
        _put(metrics, "test.late_fusion.weighted_f1", bootstrap.weighted_f1(true, late_fusion(answers), classes))
    majority = np.full_like(true, np.bincount(true, minlength=classes).argmax())
    metrics["test.majority.weighted_f1"] = float(weighted_f1(confusion(true, majority, classes)))
    return Measured({name: round(value, 8) for name, value in metrics.items()}, counts)


def late_fusion(answers: Sequence[DialoguePrediction]) -> np.ndarray:
    """Classes ``[N]`` by the mean of the unimodal experts' probabilities, of those that are present: the plain way to fuse."""
    weights = np.concatenate([answer.expert_weights for answer in answers])[:, :-1]
    experts = np.concatenate([answer.expert_probabilities for answer in answers])[:, :-1]
    return (experts * (weights > 0)[..., None]).sum(1).argmax(1)


def _put(metrics: dict[str, float], name: str, interval: Interval) -> None:
    metrics[name], metrics[f"{name}.low"], metrics[f"{name}.high"] = interval.value, interval.low, interval.high


def write_predictions(
    path: Path, answers: Sequence[DialoguePrediction], labels: Sequence[np.ndarray], dialogues: Sequence[str]
) -> None:
    """Write one row an utterance: dialogue, turn, true label, probabilities, gate weights, experts' probabilities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = [len(answer.probabilities) for answer in answers]
    table = pa.table(
        {
            "dialogue_id": [name for name, count in zip(dialogues, counts, strict=True) for _ in range(count)],
            "turn": pa.array([turn for count in counts for turn in range(count)], pa.int32()),
            "label": pa.array(np.concatenate(list(labels)), pa.int32()),
            "probabilities": _rows([answer.probabilities for answer in answers]),
            "expert_weights": _rows([answer.expert_weights for answer in answers]),
            "expert_probabilities": _rows([answer.expert_probabilities for answer in answers]),
            "modalities": [name for answer in answers for name in answer.modalities],
        }
    )
    pq.write_table(table, path, compression="zstd")


def _rows(blocks: Sequence[np.ndarray]) -> object:
    import pyarrow as pa

    stacked = np.concatenate(blocks).astype(np.float32)
    flat = stacked.reshape(len(stacked), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), pa.float32()), flat.shape[1])
