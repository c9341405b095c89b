"""Whether a search has enough dialogues to choose by, and what its choice gains on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mistere.common.counting import counted
from mistere.metrics.classification import DialogueBootstrap, Interval, confusion, weighted_f1

FEWEST_DIALOGUES = 20
"""With fewer, intervals from resampled dialogues are too narrow (Cameron, Gelbach and Miller 2008 find so below 20 to 30 clusters)."""
_FEWEST_TO_COMPARE = 10
_RESAMPLES = 2000


@dataclass(frozen=True)
class Gain:
    """Weighted F1 of the best settings minus that of the initial ones.

    Attributes:
        apparent: on the dialogues by which they were chosen, which favour the choice.
        corrected: the mean gain on other dialogues, with the paired interval shifted to it.
    """

    apparent: float
    corrected: Interval


def gain_of_choice(
    predictions: Sequence[np.ndarray], initial: int, best: int, true: np.ndarray, owners: Sequence[str], classes: int
) -> Gain:
    """Estimate the gain without the advantage of having chosen the best of several.

    The choice is repeated on resampled dialogues, and its gain is measured on those that the resample left out (Tsamardinos,
    Greasidou and Borboudakis 2018, "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation").

    Args:
        predictions: of each candidate, classes ``[S, N]`` for S trainings.
        initial: index of the initial settings.
        best: index of the chosen settings.
        true: classes ``[N]``.
        owners: the dialogue of each utterance.
        classes: number of labels.
    """
    bootstrap = DialogueBootstrap(owners, _RESAMPLES, seed=0)
    left_out = bootstrap.left_out()
    inside, outside = (
        np.stack([_mean([drawn.counts(true, row, classes) for row in rows]) for rows in predictions])
        for drawn in (bootstrap, left_out)
    )
    values = [float(_mean([confusion(true, row, classes) for row in rows])) for rows in predictions]
    every = np.arange(inside.shape[1])
    elsewhere = float(np.mean(outside[inside.argmax(0), every] - outside[initial]))
    apparent = values[best] - values[initial]
    corrected = min(apparent, elsewhere)
    paired = bootstrap.interval(apparent, inside[best] - inside[initial])
    shift = apparent - corrected
    return Gain(apparent, Interval(corrected, paired.low - shift, paired.high - shift))


def _mean(counts: Sequence[np.ndarray]) -> np.ndarray:
    """Weighted F1 averaged over trainings."""
    return np.mean([weighted_f1(each) for each in counts], axis=0)


def train_advantage(
    predicted: np.ndarray, true: np.ndarray, owners: Sequence[str], train: int, classes: int
) -> Interval | None:
    """Weighted F1 of train's dialogues minus that of dev's in a cross-validation, with its interval.

    All of them were held out alike. A clear advantage of train is a sign that the encoders were fine-tuned on train's labels, so that
    its embeddings are easier than any others and say little about other dialogues.

    Args:
        predicted: classes ``[S, N]`` for S repetitions; the utterances of train come first.
        true: classes ``[N]``.
        owners: the dialogue of each utterance.
        train: number of utterances of train.
        classes: number of labels.

    Returns:
        None if train or dev has too few dialogues for an interval.
    """
    values, draws = [], []
    for seed, part in enumerate((slice(train), slice(train, None))):
        if len(set(owners[part])) < _FEWEST_TO_COMPARE:
            return None
        bootstrap = DialogueBootstrap(owners[part], _RESAMPLES, seed)
        values.append(float(_mean([confusion(true[part], row[part], classes) for row in predicted])))
        draws.append(_mean([bootstrap.counts(true[part], row[part], classes) for row in predicted]))
    return bootstrap.interval(values[0] - values[1], draws[0] - draws[1])


def finding(gain: Gain | None, dialogues: int, trials: int, folds: int, advantage: Interval | None = None) -> str:
    """One sentence that says whether the dialogues suffice to choose settings by.

    Args:
        gain: of the best settings; None if they are the initial ones.
        dialogues: number of the dialogues that judge.
        trials: number of the settings that were compared to the end.
        folds: of the cross-validation; 0 for dev.
        advantage: of train's dialogues over dev's in the cross-validation, if there are enough to compare.
    """
    judge = "train and dev are" if folds else "dev is"
    where = f"over {counted(dialogues, 'dialogue')}" + (f" in {folds} folds" if folds else "")
    advice = "keep the initial settings"
    if not folds:
        advice += ", or use --folds 5 --seeds 3 if the encoders were not fine-tuned on train"
    if dialogues < FEWEST_DIALOGUES:
        return f"{judge} too small to choose by: {counted(dialogues, 'dialogue')}, and at least {FEWEST_DIALOGUES} are needed; {advice}."
    if advantage is not None and advantage.low > 0:
        more, low, high = (100 * figure for figure in (advantage.value, advantage.low, advantage.high))
        return (
            f"train and dev do not fit together to choose by: train's dialogues score {more:+z.1f} points [{low:+z.1f}, {high:+z.1f}] "
            "above dev's, though all were held out alike, so the encoders have probably seen train's labels; search without --folds."
        )
    if gain is None:
        return f"no settings among {trials} are better than the initial ones {where}: keep those."
    value, low, high = (100 * figure for figure in (gain.corrected.value, gain.corrected.low, gain.corrected.high))
    measured = (
        f"{where}, the best settings gain {100 * gain.apparent:+z.1f} points, and {value:+z.1f} [{low:+z.1f}, {high:+z.1f}] after "
        f"correction for the choice among {trials}"
    )
    if low > 0:
        return f"{judge} large enough to choose by: {measured}."
    return f"{judge} too small to choose by: {measured}, an interval that includes 0; {advice}."
