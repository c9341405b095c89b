"""Train the mixture with every subset of the modalities and keep the one that dev supports (``mixture.modalities: auto``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mistere.artifacts.checkpoints import Checkpoints
from mistere.common.errors import UsageError
from mistere.common.progress import Progress
from mistere.common.suggestions import did_you_mean
from mistere.config.mixture import MixtureConfig
from mistere.metrics.modality_choice import ModalityChoice, compare_subsets, subsets_of
from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.automatic_settings import TrainSize, automatic_values, describe
from mistere.model.mixture.prediction import predict_split
from mistere.model.mixture.training import TrainedMixture, train_mixture

Train = Callable[[MixtureConfig, EmbeddedDialogues], TrainedMixture]


def train_subsets(
    configs: Sequence[MixtureConfig], data: EmbeddedDialogues, train: Train
) -> tuple[ModalityChoice, list[TrainedMixture]]:
    """Train each subset with each seed, compare the subsets on dev, and return the mixtures of the chosen one.

    Args:
        configs: the settings, one per seed.
        data: embeddings of all modalities; test is not read.
        train: trains with the given settings, whose ``modalities`` name the subset, on embeddings of that subset.
    """
    trained: dict[tuple[str, ...], list[TrainedMixture]] = {}
    predicted: dict[tuple[str, ...], list[np.ndarray]] = {}
    for subset in subsets_of(list(data.dimensions)):
        part = data.only(subset)
        trained[subset] = [train(one.model_copy(update={"modalities": list(subset)}), part) for one in configs]
        answers = [predict_split(one.model, part, "dev") for one in trained[subset]]
        predicted[subset] = [one.probabilities.argmax(1) for one in answers]
        true, owners = answers[0].labels, answers[0].dialogues
    choice = compare_subsets(predicted, true, owners, len(data.labels), configs[0].seed)
    return choice, trained[choice.chosen.modalities]


def selected(config: MixtureConfig, data: EmbeddedDialogues) -> EmbeddedDialogues:
    """The embeddings of the modalities that ``config`` names; all for ``auto``.

    Args:
        config: the mixture's section.
        data: embeddings of all modalities.

    Raises:
        UsageError: a setting names a modality without embeddings.
    """
    for setting in ("input_dropout", "projection", "expert_rates"):
        values = getattr(config, setting)
        for name in values if isinstance(values, Mapping) else ():
            if name not in data.dimensions:
                raise UsageError(
                    f"mixture.{setting}: there are no {name} embeddings{did_you_mean(name, data.dimensions)}"
                )
    return data.only(config.modalities)


def train_with_modalities(
    config: MixtureConfig, data: EmbeddedDialogues, *, progress: Progress, checkpoints: Checkpoints | None = None
) -> tuple[TrainedMixture, ModalityChoice | None]:
    """Train the mixture with the modalities that ``config`` names, or with those that dev supports.

    Args:
        config: the mixture's section.
        data: embeddings of all modalities; test is not read.
        progress: reporter.
        checkpoints: of the step; each subset has its own below them.

    Returns:
        The mixture, and the comparison of the subsets; None if ``config`` names the modalities.
    """
    data = selected(config, data)
    if config.modalities != "auto":
        _note_automatic(config, data, progress)
        return train_mixture(config, data, progress=progress, checkpoints=checkpoints), None

    def train(settings: MixtureConfig, part: EmbeddedDialogues) -> TrainedMixture:
        names = list(part.dimensions)
        progress.note(f"training with {' and '.join(names)}")
        _note_automatic(settings, part, progress)
        own = checkpoints.below("-".join(names)) if checkpoints else None
        return train_mixture(settings, part, progress=progress, checkpoints=own)

    choice, trained = train_subsets([config], data, train)
    progress.note(choice.sentence())
    return trained[0], choice


def _note_automatic(config: MixtureConfig, data: EmbeddedDialogues, progress: Progress) -> None:
    """Report the values of the settings that are ``auto``."""
    size = TrainSize.of(data)
    if values := automatic_values(config, size):
        progress.note(describe(values, size))
