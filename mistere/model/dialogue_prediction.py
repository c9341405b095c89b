"""The prediction for a dialogue, and how dialogues are batched for one. PyTorch is not imported: graphs are computed without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Embeddings = Mapping[str, np.ndarray]
"""One dialogue: per modality float32 ``[n, d]``, a NaN row where the utterance lacks it."""


@dataclass(frozen=True)
class DialoguePrediction:
    """The prediction for one dialogue of n utterances.

    Attributes:
        probabilities: float32 ``[n, C]``, calibrated, rows sum to 1.
        expert_weights: float32 ``[n, E]``; absent experts are exactly 0.
        expert_probabilities: float32 ``[n, E, C]``; uniform where an expert is absent.
        modalities: for each utterance the names of its modalities joined by ``+``, or ``none``.
    """

    probabilities: np.ndarray
    expert_weights: np.ndarray
    expert_probabilities: np.ndarray
    modalities: list[str]

    def only(self, turns: np.ndarray) -> DialoguePrediction:
        """The prediction for the turns of a mask ``[n]``."""
        return DialoguePrediction(
            self.probabilities[turns],
            self.expert_weights[turns],
            self.expert_probabilities[turns],
            [name for name, kept in zip(self.modalities, turns, strict=True) if kept],
        )


def dialogue_length(dialogue: Embeddings) -> int:
    """The number of utterances of a dialogue."""
    return len(next(iter(dialogue.values())))


def modality_names(present: Mapping[str, Sequence[bool]]) -> list[str]:
    """The names of each utterance's modalities, joined by ``+``; ``none`` without any.

    Args:
        present: by modality, whether each utterance has it.
    """
    return [
        "+".join(name for name, has in zip(present, row, strict=True) if has) or "none"
        for row in zip(*present.values(), strict=True)
    ]


def batches_of_dialogues(lengths: Sequence[int], utterances: int) -> Iterator[list[int]]:
    """Indices of dialogues in batches of similar length, longest first.

    Args:
        lengths: of the dialogues.
        utterances: of a batch at most; a longer dialogue is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        chosen: list[int] = []
        rows = 0
        while start < len(order) and (not chosen or rows + lengths[order[start]] <= utterances):
            chosen.append(order[start])
            rows += lengths[order[start]]
            start += 1
        yield chosen
