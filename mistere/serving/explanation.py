"""Why each utterance of a dialogue got its label, as an answer with ``detail: explain`` says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from mistere.serving import protocol

TURNS: Final = 3
"""The number of other utterances that are named for each."""


@dataclass(frozen=True)
class Explanation:
    """What decided the labels of a dialogue of n utterances.

    Each row is about the probability of the utterance's own label. An utterance that is context only has zeros and no turns.

    Attributes:
        modalities: names of the M modalities, the columns of ``contributions``.
        contributions: float32 ``[n, M]``, the Shapley value of each modality of the utterance; exactly 0 for one that it lacks. With
            the baseline they sum to the probability of the label.
        baselines: float32 ``[n]``, the label's probability if nothing of the utterance is heard, from the others alone.
        turns: int32 ``[n, 3]``, the other utterances that mattered most, the strongest first; -1 where there are fewer.
        influences: float32 ``[n, 3]``, by how much each of ``turns`` raised the label's probability; below 0 it lowered it.
    """

    modalities: list[str]
    contributions: np.ndarray
    baselines: np.ndarray
    turns: np.ndarray
    influences: np.ndarray

    def outputs(self) -> dict[str, np.ndarray]:
        """Its arrays by the name of the output that carries them."""
        arrays = (self.contributions, self.baselines, self.turns, self.influences)
        return dict(zip(protocol.EXPLANATION_OUTPUTS, arrays, strict=True))

    @classmethod
    def of(cls, outputs: Mapping[str, np.ndarray], modalities: str) -> Explanation | None:
        """Read it from the outputs of an answer; None if the answer lacks one of them.

        Args:
            outputs: arrays by name.
            modalities: the response parameter of that name.
        """
        if not all(name in outputs for name in protocol.EXPLANATION_OUTPUTS):
            return None
        contributions, baselines, turns, influences = (outputs[name] for name in protocol.EXPLANATION_OUTPUTS)
        return cls(protocol.split_names(modalities), contributions, baselines, turns.astype(np.int32), influences)
