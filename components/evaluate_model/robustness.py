"""Loss from degraded input and 8-bit encoders: embed test dialogues again and predict.

The cost is embedding each selected utterance once for each condition of its modality: five times its speech, twice its text, three or four times another modality.
A window of dialogues is degraded in memory, one condition after another; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistere.common.modalities import cell_of
from mistere.config.evaluation import EvaluationConfig
from mistere.data.conditions import conditions_of
from mistere.data.dataset import Utterance
from mistere.data.kinds.kind import Degradation
from mistere.data.utterances import UtteranceReader
from mistere.evaluation.changed_input import DialogueChange, embed_changed
from mistere.evaluation.split_metrics import put, rounded
from mistere.metrics.classification import DialogueBootstrap, Interval
from mistere.metrics.robustness import RobustnessPoint, robustness_metrics
from mistere.model.dialogue_prediction import Embeddings
from mistere.model.embeddings import UNLABELLED
from mistere.model.mixture.prediction import predict

if TYPE_CHECKING:
    from mistere.common.progress import Progress
    from mistere.model.encoders.embedding import Embedder
    from mistere.model.mixture.mixture import MixtureOfExperts


@dataclass(frozen=True)
class CleanDialogues:
    """The unchanged test dialogues: name, embeddings and labels (``UNLABELLED`` for context) of each, and the number of labels."""

    names: Sequence[str]
    embeddings: Sequence[Embeddings]
    labels: Sequence[np.ndarray]
    classes: int


class Reembedding:
    """Embeds the first test dialogues again under changed conditions, as many as the settings allow.

    Args:
        config: number of dialogues, resamples, seed.
        reader: the dataset.
        mixture: the mixture in evaluation mode.
        temperature: its calibration.
        clean: the dialogues that the mixture was evaluated on.
        progress: reports progress.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        reader: UtteranceReader,
        mixture: MixtureOfExperts,
        temperature: float,
        clean: CleanDialogues,
        progress: Progress,
    ) -> None:
        self._seed, self._reader, self._progress = config.seed, reader, progress
        self._mixture, self._temperature, self._classes = mixture, temperature, clean.classes
        count = min(config.robustness_dialogues, len(clean.names))
        self._indices = {name: index for index, name in enumerate(clean.names[:count])}
        self._embeddings = clean.embeddings[:count]
        labels = np.concatenate(list(clean.labels[:count]))
        self._labelled = labels != UNLABELLED
        self._true = labels[self._labelled]
        turns = [name for name, own in zip(clean.names[:count], clean.labels, strict=False) for _ in own]
        owners = [name for name, kept in zip(turns, self._labelled, strict=True) if kept]
        self._bootstrap = DialogueBootstrap(owners, config.resamples, config.seed)
        self._before = self._answer(self._embeddings)

    def robustness(self, embedders: Mapping[str, Embedder]) -> dict[str, float]:
        """Metrics under each condition of a modality that the model has."""
        points = []
        for modality, embedder in embedders.items():
            named = {one.name: one.degradation for one in conditions_of(modality, embedder.kind.name)}
            for condition, vectors in self._embedded(embedder, named).items():
                points.append(RobustnessPoint(condition, *self._compared({modality: vectors})))
        clean = self._bootstrap.weighted_f1(self._true, self._before, self._classes) if points else None
        return robustness_metrics(clean, points)

    def int8(self, embedders: Mapping[str, Embedder]) -> dict[str, float]:
        """``test.int8.weighted_f1`` and ``test.int8.loss`` with all encoders in 8-bit integers."""
        vectors = {name: self._embedded(embedder, {"": None})[""] for name, embedder in embedders.items()}
        figure, loss = self._compared(vectors)
        metrics: dict[str, float] = {}
        put(metrics, "test.int8.weighted_f1", figure)
        put(metrics, "test.int8.loss", loss)
        return rounded(metrics)

    def _answer(self, embeddings: Sequence[Embeddings]) -> np.ndarray:
        answers = predict(self._mixture, embeddings, self._temperature)
        return np.concatenate([one.probabilities.argmax(1) for one in answers])[self._labelled]

    def _compared(self, vectors: Mapping[str, Mapping[int, np.ndarray]]) -> tuple[Interval, Interval]:
        """Weighted F1 with changed vectors, and the paired loss against the evaluated ones."""
        changed = [
            {**dialogue, **{modality: rows[index] for modality, rows in vectors.items()}}
            for index, dialogue in enumerate(self._embeddings)
        ]
        after = self._answer(changed)
        lost = self._bootstrap.weighted_f1_difference(self._true, self._before, after, self._classes)
        return self._bootstrap.weighted_f1(self._true, after, self._classes), lost

    def _embedded(
        self, embedder: Embedder, changes: Mapping[str, Degradation | None]
    ) -> dict[str, dict[int, np.ndarray]]:
        """Vectors ``[n, d]`` of changed utterances, by change and index of the dialogue."""
        done = 0

        def count(dialogues: int) -> None:
            nonlocal done
            done += dialogues
            self._progress(f"{embedder.modality} of dialogues, again", done, len(self._indices) * len(changes))

        def change_of(number: int, change: Degradation | None) -> DialogueChange:
            if change is None:
                return lambda dialogue: dialogue
            return lambda dialogue: [changed(change, embedder.modality, number, one, self._seed) for one in dialogue]

        read = (d for d in self._reader.dialogues("test", (embedder.modality,)) if d[0].dialogue_id in self._indices)
        named = {name: change_of(number, change) for number, (name, change) in enumerate(changes.items())}
        vectors = embed_changed(embedder, read, named, count)
        return {
            name: {self._indices[dialogue]: rows for dialogue, rows in by_dialogue.items()}
            for name, by_dialogue in vectors.items()
        }


def changed(change: Degradation, modality: str, number: int, utterance: Utterance, seed: int) -> Utterance:
    """Degrade a modality with separate random draws for each utterance and change, so that no result depends on the order."""
    cell = cell_of(utterance, modality)
    if cell is None:
        return utterance
    draw = np.random.default_rng([seed, number, utterance.turn, *utterance.dialogue_id.encode()])
    return utterance.with_cell(modality, change.change(cell, draw))
