"""Speaker leakage: how well a linear probe identifies speakers from the model's representations.

The model never gets the speaker, but voices and word choice differ. The probe is trained on some of the test dialogues and
evaluated on the others, so that recognising a dialogue does not help. The chance level ignores the representation and names
the most frequent speaker of each emotion. The probe finds only linearly encoded information, so it is an indicator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.split_metrics import put, rounded
from mistere.metrics.classification import DialogueBootstrap

_FOLDS = 5
_MOST_SPEAKERS = 50
_PENALTY = 10.0


def probe_speakers(
    representations: np.ndarray,
    speakers: Sequence[str | None],
    dialogues: Sequence[str],
    labels: np.ndarray,
    config: EvaluationConfig,
) -> dict[str, float]:
    """Accuracy of the probe and of chance; empty if fewer than two speakers have several dialogues each.

    Args:
        representations: of the test utterances ``[N, F]``.
        speakers: speaker of each ``[N]``; None if unknown.
        dialogues: dialogue of each ``[N]``.
        labels: emotions ``[N]``.
        config: resamples and seed.
    """
    chosen = _recurring(speakers, dialogues)
    rows = np.array([index for index, speaker in enumerate(speakers) if speaker in chosen], dtype=np.int64)
    if len(chosen) < 2 or not len(rows):
        return {}
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    owners = [dialogues[row] for row in rows]
    if len(set(owners)) < 2:
        return {}
    names = np.array([chosen[str(speakers[row])] for row in rows])
    vectors, emotions = representations[rows].astype(np.float64), labels[rows]
    predicted, guessed = np.full(len(rows), -1), np.full(len(rows), -1)
    for train, test in GroupKFold(min(_FOLDS, len(set(owners)))).split(vectors, names, owners):
        if len(set(names[train])) > 1:
            probe = make_pipeline(StandardScaler(), RidgeClassifier(_PENALTY)).fit(vectors[train], names[train])
            predicted[test] = probe.predict(vectors[test])
        guessed[test] = _by_emotion(names[train], emotions[train], emotions[test])
    bootstrap = DialogueBootstrap(owners, config.resamples, config.seed)
    right, lucky = (predicted == names).astype(np.float64), (guessed == names).astype(np.float64)
    count = bootstrap.sums(np.ones(len(rows)))
    metrics: dict[str, float] = {"test.speaker_probe.speakers": float(len(chosen))}
    put(metrics, "test.speaker_probe.accuracy", bootstrap.interval(right.mean(), bootstrap.sums(right) / count))
    metrics["test.speaker_probe.chance"] = float(lucky.mean())
    put(
        metrics,
        "test.speaker_probe.beyond_chance",
        bootstrap.interval(float((right - lucky).mean()), bootstrap.sums(right - lucky) / count),
    )
    return rounded(metrics)


def _recurring(speakers: Sequence[str | None], dialogues: Sequence[str]) -> dict[str, int]:
    """Numbers of the speakers who occur in several dialogues, at most the fifty most frequent."""
    pairs = {(speaker, dialogue) for speaker, dialogue in zip(speakers, dialogues, strict=True) if speaker}
    several = {name for name, count in Counter(speaker for speaker, _ in pairs).items() if count > 1}
    counts = Counter(speaker for speaker in speakers if speaker in several)
    ranked = sorted(counts, key=lambda name: (-counts[name], str(name)))[:_MOST_SPEAKERS]
    return {str(name): number for number, name in enumerate(sorted(map(str, ranked)))}


def _by_emotion(names: np.ndarray, emotions: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """For each queried emotion, the speaker who has it most often."""
    overall = np.bincount(names).argmax()
    best = {emotion: np.bincount(names[emotions == emotion]).argmax() for emotion in np.unique(emotions)}
    return np.array([best.get(emotion, overall) for emotion in queries])
