"""Which modalities a mixture should take: weighted F1 of each subset on dev, compared with all modalities in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mistere.common.counting import plural
from mistere.metrics.classification import DialogueBootstrap, Interval, confusion, weighted_f1

PREFIX = "dev.modalities."
_RESAMPLES = 2000
EVERY_SUBSET = 3
"""Of up to this many modalities every subset is compared."""


@dataclass(frozen=True)
class SubsetScore:
    """Weighted F1 of one subset on dev, averaged over seeds.

    Attributes:
        modalities: names, in order.
        weighted_f1: with its interval.
        difference: this subset minus the first, paired over the same resampled dialogues; 0 for the first, which has all modalities
            unless stated otherwise.
    """

    modalities: tuple[str, ...]
    weighted_f1: Interval
    difference: Interval

    @property
    def better(self) -> bool:
        """Whether the subset is significantly better than all modalities."""
        return self.difference.low > 0


@dataclass(frozen=True)
class ModalityChoice:
    """The scores of all subsets; the first has all modalities.

    Attributes:
        subsets: the scores.
        applied: whether the model uses the winner; otherwise it uses all modalities, and the comparison only informs.
    """

    subsets: Sequence[SubsetScore]
    applied: bool = True

    @property
    def winner(self) -> SubsetScore:
        """All modalities, unless a subset is significantly better; of several such subsets, the best on dev."""
        better = [subset for subset in self.subsets[1:] if subset.better]
        return max(better, key=lambda subset: subset.weighted_f1.value, default=self.subsets[0])

    @property
    def chosen(self) -> SubsetScore:
        """The subset that the model uses."""
        return self.winner if self.applied else self.subsets[0]

    @property
    def hurting(self) -> list[str]:
        """The modalities that the winner does without."""
        return [name for name in self.subsets[0].modalities if name not in self.winner.modalities]

    @property
    def left_out(self) -> list[str]:
        """The modalities that are not used."""
        return [name for name in self.subsets[0].modalities if name not in self.chosen.modalities]

    def contributions(self) -> dict[str, Interval]:
        """What each modality brings: weighted F1 with all modalities minus that without this one, paired."""
        every = set(self.subsets[0].modalities)
        brings = {}
        for name in self.subsets[0].modalities:
            for subset in self.subsets[1:]:
                if set(subset.modalities) == every - {name}:
                    loss = subset.difference
                    brings[name] = Interval(-loss.value, -loss.high, -loss.low)
        return brings

    def sentence(self) -> str:
        """The choice in one sentence."""
        every = " and ".join(self.subsets[0].modalities)
        if self.hurting:
            winner, hurt = self.winner, plural(len(self.hurting), "hurts", "hurt")
            if self.applied:
                end = f" and {plural(len(self.hurting), 'is', 'are')} left out"
            else:
                end = ", but all are used; mixture.modalities=auto leaves out what hurts"
            return (
                f"On dev, {' and '.join(winner.modalities)} alone scores {points(winner.difference)} points of weighted F1 "
                f"against {every}: {' and '.join(self.hurting)} {hurt}{end}."
            )
        best = max(self.subsets[1:], key=lambda subset: subset.weighted_f1.value, default=None)
        if best is None:
            return f"{every} is the only modality."
        return (
            f"On dev, no subset of the modalities is significantly better than {every}, so all are used; the best one, "
            f"{' and '.join(best.modalities)}, scores {points(best.difference)} points of weighted F1 against it."
        )

    def metrics(self) -> dict[str, float]:
        """Flat: ``dev.modalities.<names joined by ->.weighted_f1`` and ``….difference``, each with ``.low`` and ``.high``."""
        flat: dict[str, float] = {}
        for subset in self.subsets:
            name = PREFIX + "-".join(subset.modalities)
            for key, one in (("weighted_f1", subset.weighted_f1), ("difference", subset.difference)):
                flat |= {f"{name}.{key}": one.value, f"{name}.{key}.low": one.low, f"{name}.{key}.high": one.high}
        return {name: round(value, 8) for name, value in flat.items()}


def choice_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of a model's metrics, those of the comparison of its modalities."""
    return {name: value for name, value in metrics.items() if name.startswith(PREFIX)}


def choice_from_metrics(metrics: Mapping[str, float]) -> ModalityChoice | None:
    """Read what :meth:`ModalityChoice.metrics` wrote; None if no modalities were compared."""
    ending = ".weighted_f1"
    names = [key[len(PREFIX) : -len(ending)] for key in metrics if key.startswith(PREFIX) and key.endswith(ending)]

    def interval(key: str) -> Interval:
        return Interval(metrics[key], metrics[f"{key}.low"], metrics[f"{key}.high"])

    subsets = [
        SubsetScore(
            tuple(name.split("-")), interval(f"{PREFIX}{name}.weighted_f1"), interval(f"{PREFIX}{name}.difference")
        )
        for name in names
    ]
    subsets.sort(key=lambda subset: -len(subset.modalities))  # stable; a manifest may have sorted its metrics
    return ModalityChoice(subsets) if subsets else None


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The subsets to compare, all modalities first: every one of up to three modalities; of more, all, all but one, and one."""
    count = len(names)
    sizes = range(count, 0, -1) if count <= EVERY_SUBSET else (count, count - 1, 1)
    return [subset for size in sizes for subset in combinations(names, size)]


def compare_subsets(
    predictions: Mapping[tuple[str, ...], Sequence[np.ndarray]],
    true: np.ndarray,
    dialogues: Sequence[str],
    classes: int,
    seed: int,
) -> ModalityChoice:
    """Compare subsets with 95 % intervals from resampled dialogues.

    Args:
        predictions: of each subset, classes ``[N]`` for each seed; differences are to the first.
        true: classes ``[N]``.
        dialogues: the dialogue of each utterance ``[N]``.
        classes: number of labels.
        seed: of the resamples.
    """
    bootstrap = DialogueBootstrap(dialogues, _RESAMPLES, seed)
    values = {
        subset: float(np.mean([weighted_f1(confusion(true, one, classes)) for one in seeds]))
        for subset, seeds in predictions.items()
    }
    draws = {
        subset: np.mean([weighted_f1(bootstrap.counts(true, one, classes)) for one in seeds], axis=0)
        for subset, seeds in predictions.items()
    }
    full = next(iter(predictions))
    return ModalityChoice(
        [
            SubsetScore(
                subset,
                bootstrap.interval(values[subset], draws[subset]),
                bootstrap.interval(values[subset] - values[full], draws[subset] - draws[full]),
            )
            for subset in predictions
        ]
    )


def points(difference: Interval) -> str:
    """A difference in points with its interval: ``+1.2 [-0.3, +2.8]``."""
    value, low, high = (100 * one for one in (difference.value, difference.low, difference.high))
    return f"{value:+z.1f} [{low:+z.1f}, {high:+z.1f}]"
