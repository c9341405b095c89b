"""Which modalities help: the subsets compared beside a training that uses all of them, and among the trials of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mistere.common.counting import plural
from mistere.config.mixture import MixtureConfig
from mistere.metrics.modality_choice import (
    EVERY_SUBSET,
    ModalityChoice,
    SubsetScore,
    compare_subsets,
    points,
    subsets_of,
)
from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.modality_subsets import Train, train_subsets
from mistere.model.mixture.training import TrainedMixture
from pipelines.cli.experiments.held_out import HeldOut
from pipelines.cli.experiments.trial import Trial
from pipelines.cli.output.times import duration_text

CHEAP_SECONDS = 120.0
"""The comparison is cheap if its trainings take at most about this long."""
_STEP_SECONDS, _GATE_SECONDS, _OPERATIONS_PER_SECOND = 0.05, 3.0, 2e10
"""Of one core: what a step takes besides its matrix products, what the fit of the gate takes, and how fast those products are."""


def compare_modalities(
    configs: Sequence[MixtureConfig],
    data: EmbeddedDialogues,
    trials: Sequence[Trial],
    train: Train,
    note: Callable[[str], None],
    wanted: bool | None,
) -> ModalityChoice | None:
    """Train the smaller subsets of the modalities as well, and compare all on dev; the model does not change.

    Args:
        configs: the settings, one per seed.
        data: embeddings of the modalities that the trials use; test is not read.
        trials: with all modalities, one per seed.
        train: trains with a smaller subset.
        note: reports a sentence.
        wanted: whether to compare; None where it is cheap.

    Returns:
        The comparison; None with one modality, if it is not wanted, or if it is not cheap.
    """
    names = tuple(data.dimensions)
    if len(names) < 2 or wanted is False:
        return None
    if wanted is None:
        seconds = estimated_seconds(trials, data, subsets_of(names)[1:])
        if len(names) > EVERY_SUBSET or seconds > CHEAP_SECONDS:
            note(
                f"The subsets of the modalities are not compared: that would take {duration_text(seconds)} or so on one core; "
                "--compare-modalities does it."
            )
            return None
    whole = {trial.seed: trial.trained for trial in trials}

    def trained(config: MixtureConfig, part: EmbeddedDialogues) -> TrainedMixture:
        return whole[config.seed] if tuple(part.dimensions) == names else train(config, part)

    choice, _ = train_subsets(configs, data, trained)
    return replace(choice, applied=False)


def estimated_seconds(trials: Sequence[Trial], data: EmbeddedDialogues, subsets: Sequence[tuple[str, ...]]) -> float:
    """About how long it takes on one core to train subsets of the modalities as often as the trials.

    It counts the work instead of measuring the time, so that the same training is always compared or never. A subset is taken to
    cost its share of the modalities.

    Args:
        trials: with all modalities.
        data: embeddings.
        subsets: to train.
    """
    train = data.split("train")
    utterances = sum(map(len, train))
    total = 0.0
    for trial in trials:
        model = trial.trained.model
        weights = sum(weight.numel() for weight in model.parameters())
        steps = math.ceil(len(train) / model.config.batch_dialogues)
        operations = 6 * utterances * weights  # a multiplication and an addition, forward and twice backward
        total += len(trial.trained.history) * (steps * _STEP_SECONDS + operations / _OPERATIONS_PER_SECOND)
        total += _GATE_SECONDS if model.config.gate == "fitted" else 0.0
    return total * sum(map(len, subsets)) / len(data.dimensions)


@dataclass(frozen=True)
class BestTrials:
    """The best trial of each subset of the modalities in a search.

    Attributes:
        scores: the subset of the best trial first, then the others from the best to the worst; differences are to the first.
        every: all modalities.
        untried: the subsets without a finished trial.
    """

    scores: Sequence[SubsetScore]
    every: tuple[str, ...]
    untried: Sequence[tuple[str, ...]]

    def sentence(self) -> str:
        """Which subset wins, and by how much."""
        best, others = self.scores[0], self.scores[1:]
        words = f"The best trial uses {' and '.join(best.modalities)}"
        if others:
            second = others[0]
            sure = "significantly less" if second.difference.high < 0 else "not significantly less"
            words += f"; the best one with {' and '.join(second.modalities)} scores {points(second.difference)} points against it, {sure}"
        whole = next((one for one in others if one.modalities == self.every), None)
        if whole and whole.difference.high < 0:
            left_out = [name for name in self.every if name not in best.modalities]
            words += f": {' and '.join(left_out)} {plural(len(left_out), 'hurts', 'hurt')}"
            if whole is not others[0]:
                words += f" ({points(whole.difference)} with {' and '.join(self.every)})"
        if self.untried:
            words += f"; no trial with {', or with '.join(' and '.join(names) for names in self.untried)} finished"
        return f"{words}."


def best_trials(
    subsets: Sequence[tuple[str, ...]],
    used: Sequence[tuple[str, ...]],
    values: Sequence[float],
    predictions: Sequence[np.ndarray],
    best: int,
    judges: HeldOut,
) -> BestTrials | None:
    """Compare the best trial of each subset with the best one of all, in pairs.

    Args:
        subsets: that the search tries, all modalities first.
        used: the subset of each finished trial.
        values: its score.
        predictions: its classes ``[S, N]`` for S trainings.
        best: index of the best trial.
        judges: the dialogues that score the trials.

    Returns:
        None if the search has one subset only.
    """
    if len(subsets) < 2:
        return None
    order = [best, *sorted(range(len(values)), key=lambda index: -values[index])]
    first: dict[tuple[str, ...], list[np.ndarray]] = {}
    for index in order:
        first.setdefault(used[index], list(predictions[index]))
    compared = compare_subsets(first, judges.true, judges.owners, len(judges.data.labels), judges.seed)
    return BestTrials(compared.subsets, subsets[0], [subset for subset in subsets if subset not in first])


def as_rows(subsets: Sequence[SubsetScore], measure: str) -> list[dict[str, Any]]:
    """The scores of subsets as JSON; ``measure`` is the key of the weighted F1 and its interval."""
    return [
        {
            "modalities": list(subset.modalities),
            measure: [subset.weighted_f1.value, subset.weighted_f1.low, subset.weighted_f1.high],
            "difference": [subset.difference.value, subset.difference.low, subset.difference.high],
        }
        for subset in subsets
    ]
