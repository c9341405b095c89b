"""Whether a search has enough dialogues to choose by: the gain of the best settings, corrected for the choice."""

from __future__ import annotations

import numpy as np
import pytest

from mistere.metrics.classification import DialogueBootstrap
from pipelines.cli.experiments.choice import Gain, finding, gain_of_choice, train_advantage

CLASSES = 3


def candidates(
    accuracies: list[float], dialogues: int, *, turns: int = 10, seed: int = 0
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Predictions that are right with the given probabilities, the classes, and the dialogue of each utterance."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, dialogues * turns)
    predictions = []
    for accuracy in accuracies:
        wrong = rng.random((2, len(true))) >= accuracy
        predictions.append(np.where(wrong, (true + rng.integers(1, CLASSES, wrong.shape)) % CLASSES, true))
    return predictions, true, [f"d{index // turns}" for index in range(len(true))]


def gain_among(accuracies: list[float], dialogues: int, seed: int = 0) -> Gain:
    """The gain of the candidate that is best here over the first."""
    predictions, true, owners = candidates(accuracies, dialogues, seed=seed)
    best = max(range(len(predictions)), key=lambda index: float((predictions[index] == true).mean()))
    return gain_of_choice(predictions, 0, best, true, owners, CLASSES)


def test_left_out_dialogues_complement_each_resample() -> None:
    owners = [f"d{index // 2}" for index in range(20)]
    bootstrap = DialogueBootstrap(owners, 50, seed=0)
    per_dialogue = np.repeat(np.eye(10), 2, axis=0) / 2
    drawn, left = bootstrap.sums(per_dialogue), bootstrap.left_out().sums(per_dialogue)
    assert np.array_equal(left, (drawn == 0).astype(float)) and left.any(1).all()


@pytest.mark.long
def test_choice_among_equal_settings_has_no_gain_after_correction() -> None:
    gains = [gain_among([0.6] * 30, 40, seed) for seed in range(10)]
    assert all(gain.apparent >= gain.corrected.value for gain in gains)
    assert abs(np.mean([gain.corrected.value for gain in gains])) < 0.01 < np.mean([gain.apparent for gain in gains])
    assert sum(gain.corrected.low > 0 for gain in gains) <= 1
    assert "too small to choose by" in finding(gains[0], 40, 30, 0)


def test_clear_gain_is_found_and_hardly_corrected() -> None:
    gain = gain_among([0.5, 0.5, 0.7, 0.5], 60)
    assert gain.corrected.low > 0.1 and gain.corrected.value == pytest.approx(gain.apparent, abs=0.01)
    assert finding(gain, 60, 4, 0).startswith(
        "dev is large enough to choose by: over 60 dialogues, the best settings gain +"
    )


def test_finding_says_which_dialogues_are_too_few_and_what_to_do() -> None:
    gain = gain_among([0.5, 0.7], 10)
    few = finding(gain, 10, 2, 0)
    assert few == (
        "dev is too small to choose by: 10 dialogues, and at least 20 are needed; keep the initial settings, or use "
        "--folds 5 --seeds 3 if the encoders were not fine-tuned on train."
    )
    folds = finding(gain, 10, 2, 5)
    assert folds.startswith("train and dev are too small") and folds.endswith("are needed; keep the initial settings.")
    assert (
        finding(None, 40, 7, 0) == "no settings among 7 are better than the initial ones over 40 dialogues: keep those."
    )
    assert "over 40 dialogues in 5 folds" in finding(None, 40, 7, 5)


def test_embeddings_of_encoders_that_know_the_labels_of_train_are_found() -> None:
    (easy, hard), true, owners = candidates([0.9, 0.6], 60)
    train = 400
    leaked = np.concatenate([easy[:, :train], hard[:, train:]], axis=1)
    advantage = train_advantage(leaked, true, owners, train, CLASSES)
    assert advantage is not None and 0.2 < advantage.low < advantage.value < 0.4
    gain = gain_among([0.5, 0.7], 60)
    sentence = finding(gain, 60, 2, 5, advantage)
    assert "seen train's labels" in sentence and sentence.endswith("search without --folds.")
    fair = train_advantage(hard, true, owners, train, CLASSES)
    assert fair is not None and fair.low < 0 < fair.high
    assert finding(gain, 60, 2, 5, fair) == finding(gain, 60, 2, 5) and "large enough" in finding(gain, 60, 2, 5)


def test_splits_with_few_dialogues_are_not_compared() -> None:
    (predicted,), true, owners = candidates([0.6], 20)
    assert train_advantage(predicted, true, owners, 110, CLASSES) is None
    assert train_advantage(predicted, true, owners, 100, CLASSES) is not None
