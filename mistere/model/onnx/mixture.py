"""The mixture of an exported model, with its calibration, computed by a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mistere.artifacts.onnx_manifest import MIXTURE_GRAPH, OnnxModel
from mistere.common.errors import ArtifactError
from mistere.model.dialogue_prediction import (
    DialoguePrediction,
    Embeddings,
    batches_of_dialogues,
    dialogue_length,
    modality_names,
)
from mistere.model.onnx.session import GraphSession

LENGTHS: Final = "lengths"
OUTPUTS: Final = ("probabilities", "expert_weights", "expert_probabilities")
_BATCH_UTTERANCES = 1024


def present_name(modality: str) -> str:
    """The input that says which utterances have a modality."""
    return f"{modality}_present"


def input_names(modalities: Sequence[str]) -> list[str]:
    """The inputs of a mixture's graph."""
    return [*(name for one in modalities for name in (one, present_name(one))), LENGTHS]


class GraphMixture:
    """A mixture (:class:`mistere.model.dialogue_model.DialogueMixture`).

    Args:
        folder: of the exported model.
        model: its manifest.
        threads: of an operation.
    """

    def __init__(self, folder: Path, model: OnnxModel, threads: int) -> None:
        self.dimensions, self.size, self.context_mode = dict(model.dimensions), model.weights, model.context_mode
        # In 8-bit integers, the activations of a batch have one scale, so a dialogue has a batch of its own.
        self._utterances = 0 if model.precision == "int8" else _BATCH_UTTERANCES
        self._experts, self._classes = len(model.experts), len(model.labels)
        self._session = GraphSession(folder / MIXTURE_GRAPH, threads, input_names(list(self.dimensions)), OUTPUTS)

    def predict(self, dialogues: Sequence[Embeddings]) -> list[DialoguePrediction]:
        """Predict dialogues in batches of similar length; padding is masked, so the result for one depends on no other."""
        lengths = [dialogue_length(dialogue) for dialogue in dialogues]
        answers: dict[int, DialoguePrediction] = {}
        for chosen in batches_of_dialogues(lengths, self._utterances):
            answers |= zip(chosen, self._batch([dialogues[index] for index in chosen]), strict=True)
        return [answers[index] for index in range(len(dialogues))]

    def _batch(self, dialogues: Sequence[Embeddings]) -> list[DialoguePrediction]:
        lengths = [dialogue_length(dialogue) for dialogue in dialogues]
        longest = max(lengths)
        inputs: dict[str, np.ndarray] = {LENGTHS: np.array(lengths, np.int64)}
        for name, width in self.dimensions.items():
            rows = np.full((len(dialogues), longest, width), np.nan, np.float32)
            for row, dialogue in enumerate(dialogues):
                if name in dialogue:
                    rows[row, : lengths[row]] = dialogue[name]
            present = np.asarray(~np.isnan(rows).any(-1))
            rows[~present] = 0.0
            inputs |= {name: rows, present_name(name): present}
        arrays = self._session.run(inputs)
        shape = (len(dialogues), longest)
        expected = ((*shape, self._classes), (*shape, self._experts), (*shape, self._experts, self._classes))
        if tuple(array.shape for array in arrays) != expected:
            raise ArtifactError("the mixture's graph made outputs of another shape", "export the model again")
        probabilities, weights, by_expert = arrays
        marks = {name: inputs[present_name(name)] for name in self.dimensions}
        return [
            DialoguePrediction(
                probabilities[row, :length],
                weights[row, :length],
                by_expert[row, :length],
                modality_names({name: mark[row, :length].tolist() for name, mark in marks.items()}),
            )
            for row, length in enumerate(lengths)
        ]
