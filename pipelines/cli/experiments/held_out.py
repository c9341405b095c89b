"""Score settings of the mixture on dialogues that they were not trained on: dev, or a repeated cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mistere.common.errors import UsageError
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from pipelines.cli.experiments.trial import Quiet, owners, seeds_of, true_classes

FEWEST_FOLDS = 3
Report = Callable[[int, float], None]
"""Called with a step and the score so far; an exception ends the training."""


@dataclass(frozen=True)
class Scored:
    """Weighted F1 and the classes ``[S, N]`` that each of S trainings or repetitions predicts for N utterances."""

    value: float
    predicted: np.ndarray


class HeldOut:
    """Dialogues that judge settings, the same for every trial.

    With ``folds`` below 3 these are the dialogues of dev, on which the epoch is chosen and the gate is fitted too. Otherwise they are
    those of train and dev, each predicted by a model that has seen it neither in training nor in the choice of its epoch: of K
    folds, one is predicted, the next takes the place of dev, and the others that of train.

    Args:
        data: embeddings; the test split is not read.
        repetitions: trainings with consecutive seeds, or repetitions of the cross-validation, each with other folds.
        folds: K; 0 for dev.
        seed: of the folds.

    Raises:
        UsageError: there are too few folds, or fewer dialogues than folds.
    """

    def __init__(self, data: EmbeddedDialogues, repetitions: int, folds: int, seed: int) -> None:
        self.data, self.repetitions, self.folds, self.seed = data.without("test"), repetitions, folds, seed
        self.dialogues = self.data.split("dev") if not folds else [*self.data.split("train"), *self.data.split("dev")]
        if folds and not FEWEST_FOLDS <= folds <= len(self.dialogues):
            raise UsageError(
                f"--folds {folds}: use 0 for none, or {FEWEST_FOLDS} to {len(self.dialogues)} (the dialogues of train and dev)."
            )

    @property
    def true(self) -> np.ndarray:
        """Classes ``[N]`` of the utterances that have a label."""
        return true_classes(self.dialogues)

    @property
    def train_utterances(self) -> int:
        """How many of the utterances are of train; they come first."""
        return len(owners(self.data.split("train"))) if self.folds else 0

    @property
    def owners(self) -> list[str]:
        """The dialogue of each utterance."""
        return owners(self.dialogues)

    def score(self, config: MixtureConfig, report: Report) -> Scored:
        """Train with these settings and score them.

        Args:
            config: the settings, including their seed and modalities.
            report: called in the first repetition: after each epoch, or after each fold with the score of the folds so far.
        """
        data = self.data.only(config.modalities)
        predicted = np.empty((self.repetitions, len(self.true)), dtype=np.int64)
        for index, settings in enumerate(seeds_of(config, self.repetitions)):
            first = index == 0
            if self.folds:
                predicted[index] = self._cross_validate(settings, data, index, report if first else _ignore)
            else:
                predicted[index] = _train_and_predict(settings, data, data.split("dev"), report if first else _ignore)
        scores = [self._weighted_f1(np.arange(len(self.true)), row) for row in predicted]
        return Scored(float(np.mean(scores)), predicted)

    def _cross_validate(
        self, config: MixtureConfig, data: EmbeddedDialogues, repetition: int, report: Report
    ) -> np.ndarray:
        ends = np.cumsum([int(dialogue.labelled.sum()) for dialogue in self.dialogues])
        rows = np.split(np.arange(len(self.true)), ends[:-1])
        predicted = np.empty(len(self.true), dtype=np.int64)
        seen: list[np.ndarray] = []
        for step, (fold, held_out) in enumerate(self._folds(data, repetition), start=1):
            own = np.concatenate([rows[index] for index in held_out])
            chosen = [self.dialogues[index] for index in held_out]
            predicted[own] = _train_and_predict(config, fold, chosen, _ignore)
            seen.append(own)
            so_far = np.concatenate(seen)
            report(step, self._weighted_f1(so_far, predicted[so_far]))
        return predicted

    def _folds(self, data: EmbeddedDialogues, repetition: int) -> Iterator[tuple[EmbeddedDialogues, np.ndarray]]:
        """The data of each fold, and the indices of the dialogues that it holds out."""
        order = np.random.default_rng([self.seed, repetition]).permutation(len(self.dialogues))
        folds = np.array_split(order, self.folds)
        for number, held_out in enumerate(folds):
            dev = folds[(number + 1) % self.folds]
            used = {*held_out.tolist(), *dev.tolist()}
            train = [dialogue for index, dialogue in enumerate(self.dialogues) if index not in used]
            yield data.with_splits({"train": train, "dev": [self.dialogues[index] for index in dev]}), held_out

    def _weighted_f1(self, rows: np.ndarray, predicted: np.ndarray) -> float:
        return float(weighted_f1(confusion(self.true[rows], predicted, len(self.data.labels))))


def _ignore(step: int, value: float) -> None:
    """Report nothing."""


def _train_and_predict(
    config: MixtureConfig, data: EmbeddedDialogues, dialogues: list[EmbeddedDialogue], report: Report
) -> np.ndarray:
    from mistere.model.mixture.prediction import LabelledTurns, predict
    from mistere.model.mixture.training import train_mixture

    trained = train_mixture(
        config,
        data,
        progress=Quiet("tune"),
        on_epoch=lambda epoch, entry: report(epoch, entry["dev_weighted_f1"]),
    )
    answers = predict(trained.model, [data.read(dialogue) for dialogue in dialogues], trained.temperature)
    return LabelledTurns.of(dialogues, answers).probabilities.argmax(1)
