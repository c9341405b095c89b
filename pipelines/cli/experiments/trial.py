"""Train the mixture with one seed and measure it on test; shared resamples for several trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistere.common.progress import Progress
from mistere.config.evaluation import EvaluationConfig
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import DialogueBootstrap, Interval, confusion, weighted_f1
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues

if TYPE_CHECKING:
    from mistere.artifacts.checkpoints import Checkpoints
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.model.mixture.prediction import LabelledTurns
    from mistere.model.mixture.training import TrainedMixture

OnEpoch = Callable[[int, dict[str, float]], None]


class Quiet(Progress):
    """A progress that prints nothing."""

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        """Ignore the progress."""

    def note(self, message: str) -> None:
        """Ignore the note."""


@dataclass(frozen=True)
class Trial:
    """A trained mixture with its test predictions and metrics.

    Attributes:
        seed: of the training.
        trained: the mixture.
        answers: the prediction for each whole test dialogue.
        scored: the predictions for the turns that have a label, which all metrics are about.
        metrics: by name.
    """

    seed: int
    trained: TrainedMixture
    answers: list[DialoguePrediction]
    scored: LabelledTurns
    metrics: dict[str, float]


def run_trial(
    config: MixtureConfig,
    data: EmbeddedDialogues,
    evaluation: EvaluationConfig,
    *,
    checkpoints: Checkpoints | None = None,
    on_epoch: OnEpoch | None = None,
    trained: TrainedMixture | None = None,
) -> Trial:
    """Train, then predict test once and measure it.

    Args:
        config: the mixture's settings, including its seed.
        data: embeddings of all splits.
        evaluation: resampling settings of the intervals.
        checkpoints: where to save checkpoints; an interrupted training resumes from them.
        on_epoch: called after each epoch with its number and metrics.
        trained: the mixture, if it has been trained with these settings already.
    """
    from mistere.evaluation.mixture_evaluation import evaluate_mixture
    from mistere.model.mixture.training import train_mixture

    if trained is None:
        trained = train_mixture(config, data, progress=Quiet("train"), checkpoints=checkpoints, on_epoch=on_epoch)
    evaluated = evaluate_mixture(trained.model, trained.temperature, data, evaluation)
    metrics = evaluated.metrics | {"dev.weighted_f1": trained.dev_weighted_f1, "epoch": float(trained.epoch)}
    return Trial(config.seed, trained, evaluated.answers, evaluated.scored, metrics)


def seeds_of(config: MixtureConfig, count: int) -> list[MixtureConfig]:
    """The same settings with ``count`` consecutive seeds, starting at the config's."""
    return [config.model_copy(update={"seed": config.seed + index}) for index in range(count)]


class Resamples:
    """One set of resamples of the test dialogues, for the metrics of several trials and their differences.

    Args:
        data: embeddings with the test split.
        evaluation: number of resamples and seed.
    """

    def __init__(self, data: EmbeddedDialogues, evaluation: EvaluationConfig) -> None:
        test = data.split("test")
        self._true = true_classes(test)
        self._classes = len(data.labels)
        names = owners(test)
        self._bootstrap = DialogueBootstrap(names, evaluation.resamples, evaluation.seed)

    def mean(self, predictions: Sequence[np.ndarray]) -> Interval:
        """Weighted F1 averaged over seeds, with its interval from the same resampled dialogues for every seed."""
        return self._interval(self._values(predictions), self._draws(predictions))

    def difference(self, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Interval:
        """Mean weighted F1 of ``one`` minus that of ``other``, paired: the same resamples for both."""
        return self._interval(self._values(one) - self._values(other), self._draws(one) - self._draws(other))

    def _values(self, predictions: Sequence[np.ndarray]) -> float:
        return float(
            np.mean([weighted_f1(confusion(self._true, predicted, self._classes)) for predicted in predictions])
        )

    def _draws(self, predictions: Sequence[np.ndarray]) -> np.ndarray:
        each = [weighted_f1(self._bootstrap.counts(self._true, predicted, self._classes)) for predicted in predictions]
        return np.mean(each, axis=0)

    def _interval(self, value: float, draws: np.ndarray) -> Interval:
        low, high = np.quantile(draws, [0.025, 0.975])
        return Interval(value, float(low), float(high))


def predicted(trial: Trial) -> np.ndarray:
    """Predicted classes ``[N]`` of the mixture for the turns that have a label."""
    return trial.scored.probabilities.argmax(1)


def true_classes(dialogues: Sequence[EmbeddedDialogue]) -> np.ndarray:
    """Classes ``[N]`` of the turns that have a label."""
    return np.concatenate([dialogue.labels[dialogue.labelled] for dialogue in dialogues])


def owners(dialogues: Sequence[EmbeddedDialogue]) -> list[str]:
    """The dialogue of each turn that has a label."""
    return [dialogue.dialogue_id for dialogue in dialogues for _ in range(int(dialogue.labelled.sum()))]
