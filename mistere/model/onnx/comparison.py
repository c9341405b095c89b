"""Compare the predictions of an exported model with those of its bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mistere.common.errors import DataError
from mistere.common.names import shown
from mistere.data.dataset import Utterance
from mistere.metrics.classification import DialogueBootstrap, Interval
from mistere.model.dialogue_model import DialogueModel
from mistere.model.dialogue_prediction import DialoguePrediction, dialogue_length
from mistere.model.readable_dialogues import readable

RESAMPLES: Final = 2000
_SHORTENED: Final = (1, 2, 5)
"""Turns of further dialogues that are compared, so that a batch holds different lengths."""
Vectors = dict[str, np.ndarray]


def largest_difference(
    bundle: DialogueModel, exported: DialogueModel, dialogues: Sequence[Sequence[Utterance]]
) -> float:
    """The largest difference of a probability or weight.

    Whole dialogues are compared from their raw inputs on; then the mixtures alone, on the same vectors: shorter dialogues, and
    dialogues whose utterances lack modalities, all in one batch.

    Args:
        bundle: the bundle's model.
        exported: the exported model.
        dialogues: raw dialogues; empty for a model of vectors. Values that do not decode are left out.
    """
    if not bundle.embedders:
        return _mixtures(bundle, exported, _drawn_vectors(bundle.dimensions))
    dialogues = [readable(bundle, dialogue)[0] for dialogue in dialogues]
    vectors = bundle.embed(dialogues)
    whole = _difference(bundle.predict_embeddings(vectors), exported.predict_embeddings(exported.embed(dialogues)))
    return max(whole, _mixtures(bundle, exported, vectors))


def _mixtures(bundle: DialogueModel, exported: DialogueModel, dialogues: Sequence[Vectors]) -> float:
    varied = [*dialogues, *_varied(dialogues)]
    alone = [exported.predict_embeddings([one])[0] for one in varied]
    expected = bundle.predict_embeddings(varied)
    return max(_difference(expected, exported.predict_embeddings(varied)), _difference(expected, alone))


def _varied(dialogues: Sequence[Vectors]) -> list[Vectors]:
    """Shorter dialogues, dialogues without one modality, and dialogues whose utterances lack modalities at random."""
    draw = np.random.default_rng(0)
    varied: list[Vectors] = []
    for dialogue in dialogues:
        varied += [{name: rows[:turns] for name, rows in dialogue.items()} for turns in _SHORTENED]
        for absent in dialogue:
            varied.append({name: rows * (np.nan if name == absent else 1) for name, rows in dialogue.items()})
        lost = {name: draw.random(len(rows)) < 0.4 for name, rows in dialogue.items()}
        varied.append({name: np.where(lost[name][:, None], np.nan, rows) for name, rows in dialogue.items()})
    return [{name: rows.astype(np.float32) for name, rows in one.items()} for one in varied if dialogue_length(one)]


def _drawn_vectors(dimensions: Mapping[str, int]) -> list[Vectors]:
    draw = np.random.default_rng(0)
    return [{name: draw.normal(size=(9, width)).astype(np.float32) for name, width in dimensions.items()}]


def _difference(expected: Sequence[DialoguePrediction], actual: Sequence[DialoguePrediction]) -> float:
    """The largest difference; infinite if a number is no number."""
    largest = 0.0
    for one, other in zip(expected, actual, strict=True):
        pairs = (
            (one.probabilities, other.probabilities),
            (one.expert_weights, other.expert_weights),
            (one.expert_probabilities, other.expert_probabilities),
        )
        for left, right in pairs:
            gap = float(np.abs(left - right).max())
            largest = max(largest, gap if np.isfinite(gap) else float("inf"))
    return largest


@dataclass(frozen=True)
class QualityDifference:
    """Weighted F1 of two models on the same dialogues.

    Attributes:
        bundle: of the bundle.
        exported: of the exported model.
        difference: exported minus bundle, with the interval of paired resamples of whole dialogues, as the release gate has it.
        turns: labelled turns.
        undecodable: a sentence for each value that does not decode and was left out.
    """

    bundle: Interval
    exported: Interval
    difference: Interval
    turns: int
    undecodable: Sequence[str] = ()


def quality_difference(
    bundle: DialogueModel,
    exported: DialogueModel,
    dialogues: Iterable[Sequence[Utterance]],
    labels: Sequence[str],
    seed: int = 0,
) -> QualityDifference:
    """Compare weighted F1. One dialogue is in memory at a time.

    Args:
        bundle: the bundle's model.
        exported: the exported model.
        dialogues: with labels; turns without one are context. Values that do not decode are left out.
        labels: of both models, in order.
        seed: of the resamples.

    Raises:
        DataError: no turn has a label, or one has a label that the models do not know.
    """
    classes = {label: index for index, label in enumerate(labels)}
    true, owners, undecodable = list[int](), list[str](), list[str]()
    predicted: tuple[list[int], list[int]] = ([], [])
    for dialogue in dialogues:
        labelled = _labelled(dialogue, classes)
        if not labelled:
            continue
        true += [classes[str(dialogue[index].label)] for index in labelled]
        owners += [dialogue[0].dialogue_id] * len(labelled)
        turns, left_out = readable(bundle, dialogue)
        undecodable += left_out
        for model, answers in zip((bundle, exported), predicted, strict=True):
            (answer,) = model.predict_embeddings(model.embed([turns]))
            answers += answer.probabilities.argmax(1)[labelled].tolist()
    if not true:
        raise DataError("the dialogues have no turn with a label: name another split.")
    bootstrap, count = DialogueBootstrap(owners, RESAMPLES, seed), len(labels)
    known, before, after = (np.array(one) for one in (true, *predicted))
    return QualityDifference(
        bootstrap.weighted_f1(known, before, count),
        bootstrap.weighted_f1(known, after, count),
        bootstrap.weighted_f1_difference(known, after, before, count),
        len(true),
        undecodable,
    )


def _labelled(dialogue: Sequence[Utterance], classes: Mapping[str, int]) -> list[int]:
    """The turns of a dialogue that have a label.

    Raises:
        DataError: a label is not among the classes.
    """
    labelled = [index for index, turn in enumerate(dialogue) if turn.label is not None]
    for label in (dialogue[index].label for index in labelled):
        if label not in classes:
            name = shown(dialogue[0].dialogue_id)
            raise DataError(f"dialogue {name} has the label {shown(label)}, which the model lacks.")
    return labelled
