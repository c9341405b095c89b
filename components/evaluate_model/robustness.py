"""What noise, a telephone and lost words cost: test dialogues degraded, embedded again and predicted.

What costs: embedding each chosen utterance once a condition of its modality, so five times its speech and twice its text. A
window of dialogues is degraded in memory condition by condition; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.core.audio import AudioError
from components.core.config.evaluation import EvaluationConfig
from components.core.dataset import Utterance
from components.core.metrics import DialogueBootstrap
from components.core.moe.prediction import Embeddings, predict
from components.core.robustness_figures import CONDITIONS, RobustnessPoint, robustness_metrics
from components.core.utterances import UtteranceReader
from components.evaluate_model.degradation import DEGRADATIONS

if TYPE_CHECKING:
    from components.core.encoders.embedding import Embedder
    from components.core.encoders.family import Features
    from components.core.moe.mixture import MixtureOfExperts
    from components.core.progress import Progress

_WINDOW = 64


@dataclass(frozen=True)
class CleanDialogues:
    """The test dialogues as they are: names, embeddings, labels, one each, and how many labels there are."""

    names: Sequence[str]
    embeddings: Sequence[Embeddings]
    labels: Sequence[np.ndarray]
    classes: int


@dataclass(frozen=True)
class _Item:
    utterance: Utterance
    context: tuple[str, ...]


def measure_robustness(
    config: EvaluationConfig,
    reader: UtteranceReader,
    embedders: Mapping[str, Embedder],
    mixture: MixtureOfExperts,
    temperature: float,
    clean: CleanDialogues,
    progress: Progress,
) -> dict[str, float]:
    """Figures under each condition whose modality the model has, on the first dialogues of the test split.

    Args:
        config: how many dialogues, resamples, seed.
        reader: the dataset.
        embedders: the fine-tuned encoders by modality.
        mixture: in evaluation mode.
        temperature: its calibration.
        clean: what the mixture was evaluated on.
        progress: told how far it is.
    """
    count = min(config.robustness_dialogues, len(clean.names))
    places = {name: index for index, name in enumerate(clean.names[:count])}
    true = np.concatenate(list(clean.labels[:count]))
    owners = [name for name, own in zip(clean.names[:count], clean.labels, strict=False) for _ in own]
    bootstrap = DialogueBootstrap(owners, config.resamples, config.seed)

    def answer(embeddings: Sequence[Embeddings]) -> np.ndarray:
        return np.concatenate([one.probabilities.argmax(1) for one in predict(mixture, embeddings, temperature)])

    before = answer(clean.embeddings[:count])
    points = []
    for modality, embedder in embedders.items():
        degraded = _embedded(reader, embedder, places, config.seed, progress)
        for condition, vectors in degraded.items():
            changed = [
                {**dialogue, modality: vectors[index]} for index, dialogue in enumerate(clean.embeddings[:count])
            ]
            after = answer(changed)
            points.append(
                RobustnessPoint(
                    condition,
                    bootstrap.weighted_f1(true, after, clean.classes),
                    bootstrap.weighted_f1_difference(true, before, after, clean.classes),
                )
            )
    return robustness_metrics(bootstrap.weighted_f1(true, before, clean.classes) if points else None, points)


def _embedded(
    reader: UtteranceReader, embedder: Embedder, places: Mapping[str, int], seed: int, progress: Progress
) -> dict[str, dict[int, np.ndarray]]:
    """By condition and place of a dialogue, the vectors ``[n, d]`` of its degraded utterances."""
    conditions = [name for name, (modality, _) in CONDITIONS.items() if modality == embedder.modality]
    found: dict[str, dict[int, np.ndarray]] = {name: {} for name in conditions}
    windows: list[tuple[str, list[tuple[int, int]]]] = []

    def degraded() -> Iterator[list[_Item]]:
        for dialogues in _in_windows(reader, embedder.modality, places):
            for number, condition in enumerate(conditions):
                items: list[_Item] = []
                for dialogue in dialogues:
                    changed = [_degrade(condition, number, utterance, seed) for utterance in dialogue]
                    texts = [utterance.text or "" for utterance in changed]
                    turns = embedder.settings.context_turns
                    items += [
                        _Item(utterance, tuple(texts[max(0, at - turns) : at])) for at, utterance in enumerate(changed)
                    ]
                windows.append((condition, [(places[d[0].dialogue_id], len(d)) for d in dialogues]))
                yield items

    def prepare(item: _Item) -> Features | None:
        try:
            return embedder.prepare(item.utterance, item.context)
        except AudioError:
            return None

    done = 0
    for vectors in embedder.embed_windows(degraded(), prepare):
        condition, spans = windows.pop(0)
        start = 0
        for place, length in spans:
            found[condition][place] = vectors[start : start + length]
            start += length
        done += len(spans)
        progress(f"degraded {embedder.modality} dialogues", done, len(places) * len(conditions))
    return found


def _degrade(condition: str, number: int, utterance: Utterance, seed: int) -> Utterance:
    """By draws of its own for each utterance and condition, so that no result depends on the order."""
    draw = np.random.default_rng([seed, number, utterance.turn, *utterance.dialogue_id.encode()])
    return DEGRADATIONS[condition](utterance, draw)


def _in_windows(reader: UtteranceReader, modality: str, places: Mapping[str, int]) -> Iterator[list[list[Utterance]]]:
    window: list[list[Utterance]] = []
    for dialogue in reader.dialogues("test", audio=modality == "speech", text=modality == "text"):
        if dialogue[0].dialogue_id not in places:
            continue
        window.append(dialogue)
        if sum(map(len, window)) >= _WINDOW:
            yield window
            window = []
    if window:
        yield window
