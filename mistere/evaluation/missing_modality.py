"""Weighted F1 of the mixture as an increasing share of a modality is removed, and whether its absence is expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.metrics.classification import DialogueBootstrap, Interval
from mistere.metrics.missing_curve import MODALITY_DROPOUT, CurvePoint, absent_metric
from mistere.model.embeddings import UNLABELLED

if TYPE_CHECKING:
    from mistere.model.dialogue_prediction import Embeddings
    from mistere.model.mixture.mixture import MixtureOfExperts

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def missing_modality_curve(
    model: MixtureOfExperts,
    temperature: float,
    dialogues: Sequence[Embeddings],
    labels: Sequence[np.ndarray],
    names: Sequence[str],
    classes: int,
    evaluation: EvaluationConfig,
) -> list[CurvePoint]:
    """Weighted F1 with 0, 25, 50, 75 and 100 % of each modality removed, one modality at a time.

    The order in which utterances lose a modality depends only on the seed and the modality's name; those that lose it at
    25 % are among those at 50 %. An utterance without any modality is predicted from its dialogue. With a single modality
    the curve ends at 75 %, since no input is left at 100 %.

    Args:
        model: the mixture in evaluation mode.
        temperature: its calibration.
        dialogues: embeddings of the dialogues.
        labels: classes ``[n]`` of each dialogue; turns with :data:`~mistere.model.embeddings.UNLABELLED` lose the modality as the
            others do, but are not scored.
        names: names of the dialogues.
        classes: number of labels.
        evaluation: resamples, and the seed of the removal.
    """
    from mistere.model.mixture.prediction import predict

    true = np.concatenate(list(labels))
    labelled = true != UNLABELLED
    true = true[labelled]
    owners = [name for name, own in zip(names, labels, strict=True) for label in own if label != UNLABELLED]
    bootstrap = DialogueBootstrap(owners, evaluation.resamples, evaluation.seed)

    def score(embeddings: Sequence[Embeddings]) -> Interval:
        answers = predict(model, embeddings, temperature)
        predicted = np.concatenate([answer.probabilities.argmax(1) for answer in answers])[labelled]
        return bootstrap.weighted_f1(true, predicted, classes)

    whole = score(dialogues)
    points = []
    for modality in model.modalities:
        order = _order(dialogues, modality, evaluation.seed)
        for share in SHARES if len(model.modalities) > 1 else SHARES[:-1]:
            removed = order[: round(share * len(order))]
            points.append(
                CurvePoint(modality, share, score(_without(dialogues, modality, removed)) if len(removed) else whole)
            )
    return points


def expected_absence(
    model: MixtureOfExperts, dialogues: Sequence[Embeddings], labels: Sequence[np.ndarray]
) -> dict[str, float]:
    """What the release gate concludes from which modalities may be missing in use.

    Args:
        model: the mixture.
        dialogues: embeddings of the dialogues.
        labels: classes ``[n]`` of each dialogue, with :data:`~mistere.model.embeddings.UNLABELLED` for context.

    Returns:
        The share of labelled utterances that lack each of the model's modalities, and its modality dropout in training.
    """
    labelled = [
        {name: rows[own != UNLABELLED] for name, rows in dialogue.items()}
        for dialogue, own in zip(dialogues, labels, strict=True)
    ]
    utterances = sum(_turns(dialogue) for dialogue in labelled)
    metrics = {
        absent_metric(name): round(1 - len(_present(labelled, name)) / utterances, 8) for name in model.modalities
    }
    return metrics | {MODALITY_DROPOUT: model.config.modality_dropout}


def _order(dialogues: Sequence[Embeddings], modality: str, seed: int) -> np.ndarray:
    """Indices over all dialogues of the utterances that have the modality, in the order in which they lose it."""
    return np.random.default_rng([seed, *modality.encode()]).permutation(_present(dialogues, modality))


def _present(dialogues: Sequence[Embeddings], modality: str) -> np.ndarray:
    """Indices over all dialogues of the utterances that have the modality."""
    present = [
        ~np.isnan(dialogue[modality]).any(1) if modality in dialogue else np.zeros(_turns(dialogue), dtype=bool)
        for dialogue in dialogues
    ]
    return np.flatnonzero(np.concatenate(present))


def _without(dialogues: Sequence[Embeddings], modality: str, rows: np.ndarray) -> list[Embeddings]:
    """The dialogues with these utterances' rows of the modality as NaN; rows of others are shared, not copied."""
    removed = np.zeros(sum(_turns(dialogue) for dialogue in dialogues), dtype=bool)
    removed[rows] = True
    changed: list[Embeddings] = []
    start = 0
    for dialogue in dialogues:
        mine = removed[start : start + _turns(dialogue)]
        start += len(mine)
        if mine.any():
            changed.append({**dialogue, modality: np.where(mine[:, None], np.float32(np.nan), dialogue[modality])})
        else:
            changed.append(dialogue)
    return changed


def _turns(dialogue: Embeddings) -> int:
    return len(next(iter(dialogue.values())))
