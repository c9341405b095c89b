"""Prediction with a trained mixture, and its files. Evaluation and serving share this code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from mistere.common.errors import ArtifactError
from mistere.common.names import Segment, shown
from mistere.common.parsing.documents import first_line, read_json
from mistere.common.splits import Split
from mistere.config.mixture import MixtureConfig
from mistere.model.dialogue_prediction import (
    DialoguePrediction,
    Embeddings,
    batches_of_dialogues,
    dialogue_length,
    modality_names,
)
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.mixture import DialogueBatch, MixtureOfExperts
from mistere.model.mixture.packed_dialogues import PackedDialogues
from mistere.model.torch_threads import PREDICTION_WORK, threads, threads_for
from mistere.model.weight_files import OTHER_MODEL, check_weights, read_weights

_BATCH_UTTERANCES = 4096
_BEFORE_THE_SETTING = {
    "standardise": False,
    "input_dropout": 0.0,
    "skip_dropout": 0.0,
    "projection": 0,
    "expert_rates": {},
}
"""Values of settings that the files of older models lack; the defaults would describe another model."""


@dataclass(frozen=True)
class LabelledTurns:
    """The predictions for the turns of a split that have a label.

    Attributes:
        predictions: of each dialogue, without its other turns.
        labels: classes of the turns ``[N]``.
        dialogues: the name of each turn's dialogue.
    """

    predictions: list[DialoguePrediction]
    labels: np.ndarray
    dialogues: list[str]

    @classmethod
    def of(cls, dialogues: Sequence[EmbeddedDialogue], predictions: Sequence[DialoguePrediction]) -> LabelledTurns:
        """The turns with a label of dialogues that were predicted as a whole."""
        return cls(
            [one.only(dialogue.labelled) for one, dialogue in zip(predictions, dialogues, strict=True)],
            np.concatenate([dialogue.labels[dialogue.labelled] for dialogue in dialogues]),
            [dialogue.dialogue_id for dialogue in dialogues for _ in range(int(dialogue.labelled.sum()))],
        )

    @property
    def probabilities(self) -> np.ndarray:
        """``[N, C]``."""
        return np.concatenate([one.probabilities for one in self.predictions])

    @property
    def expert_weights(self) -> np.ndarray:
        """``[N, E]``."""
        return np.concatenate([one.expert_weights for one in self.predictions])

    @property
    def expert_probabilities(self) -> np.ndarray:
        """``[N, E, C]``."""
        return np.concatenate([one.expert_probabilities for one in self.predictions])


def make_batch(
    dialogues: Sequence[Embeddings],
    dimensions: Mapping[str, int],
    labels: Sequence[np.ndarray] | None = None,
    device: torch.device | str = "cpu",
) -> DialogueBatch:
    """Collate dialogues into a batch; a modality that a dialogue does not have is absent in all of its turns.

    Args:
        dialogues: embeddings.
        dimensions: width of each modality.
        labels: classes ``[n]`` of each dialogue, with :data:`UNLABELLED` for context; None for a prediction.
        device: of the tensors.
    """
    lengths = [dialogue_length(dialogue) for dialogue in dialogues]
    inputs, present = {}, {}
    for name, width in dimensions.items():
        rows = np.concatenate(
            [
                np.asarray(dialogue[name], dtype=np.float32)
                if name in dialogue
                else np.full((length, width), np.nan, dtype=np.float32)
                for dialogue, length in zip(dialogues, lengths, strict=True)
            ]
        )
        has_modality = ~np.isnan(rows).any(1)
        rows[~has_modality] = 0.0
        inputs[name] = torch.from_numpy(rows).to(device)
        present[name] = torch.from_numpy(has_modality).to(device)
    turns = PackedDialogues(lengths, device)
    if labels is None:
        return DialogueBatch(inputs, present, turns)
    targets = np.concatenate(list(labels)).astype(np.int64)
    labelled = targets != UNLABELLED
    return DialogueBatch(
        inputs,
        present,
        turns,
        torch.from_numpy(targets).to(device),
        None if labelled.all() else torch.from_numpy(labelled).to(device),
    )


@torch.inference_mode()
def predict(model: MixtureOfExperts, dialogues: Sequence[Embeddings], temperature: float) -> list[DialoguePrediction]:
    """Predict dialogues in batches of similar length; the result for a dialogue does not depend on the others.

    Args:
        model: in evaluation mode.
        dialogues: embeddings.
        temperature: divides the mixture's logits (calibration).
    """
    lengths = [dialogue_length(dialogue) for dialogue in dialogues]
    answers: dict[int, DialoguePrediction] = {}
    device = next(model.parameters()).device
    for chosen in batches_of_dialogues(lengths, _BATCH_UTTERANCES):
        batch = make_batch([dialogues[index] for index in chosen], model.dimensions, device=device)
        with threads(threads_for(2 * len(batch.turns) * model.size, PREDICTION_WORK)):
            output = model(batch)
            probabilities = (output.logits / temperature).softmax(-1).cpu().numpy()
            experts = output.expert_logits.softmax(-1).cpu().numpy()
            weights = output.weights.cpu().numpy()
        modalities = modality_names({name: batch.present[name].tolist() for name in model.modalities})
        row = 0
        for index in chosen:
            rows = slice(row, row + lengths[index])
            answers[index] = DialoguePrediction(probabilities[rows], weights[rows], experts[rows], modalities[rows])
            row = rows.stop
    return [answers[index] for index in range(len(dialogues))]


class CalibratedMixture:
    """A mixture with its calibration, as a model of dialogues uses it.

    Args:
        mixture: in evaluation mode.
        temperature: its calibration.
    """

    def __init__(self, mixture: MixtureOfExperts, temperature: float) -> None:
        self._mixture, self._temperature = mixture, temperature
        self.dimensions = dict(mixture.dimensions)
        self.size = mixture.size
        self.context_mode = mixture.config.context_mode

    def predict(self, dialogues: Sequence[Embeddings]) -> list[DialoguePrediction]:
        """Predict dialogues, see :func:`predict`."""
        return predict(self._mixture, dialogues, self._temperature)


def predict_split(model: MixtureOfExperts, data: EmbeddedDialogues, split: Split) -> LabelledTurns:
    """Predict the dialogues of a split at temperature 1, and keep the turns that have a label."""
    dialogues = data.split(split)
    return LabelledTurns.of(dialogues, predict(model, [data.read(dialogue) for dialogue in dialogues], 1.0))


@torch.inference_mode()
def representations(model: MixtureOfExperts, dialogues: Sequence[Embeddings]) -> np.ndarray:
    """The cross-modal expert's representations of every utterance, modalities concatenated: float32 ``[N, M · F]``."""
    lengths = [dialogue_length(dialogue) for dialogue in dialogues]
    device = next(model.parameters()).device
    by_dialogue: dict[int, np.ndarray] = {}
    for chosen in batches_of_dialogues(lengths, _BATCH_UTTERANCES):
        batch = make_batch([dialogues[index] for index in chosen], model.dimensions, device=device)
        with threads(threads_for(2 * len(batch.turns) * model.size, PREDICTION_WORK)):
            views = model(batch).views
            rows = torch.cat([views[name].float() for name in model.modalities], dim=-1).cpu().numpy()
        ends = np.cumsum([lengths[index] for index in chosen])[:-1]
        by_dialogue.update(zip(chosen, np.split(rows, ends), strict=True))
    return np.concatenate([by_dialogue[index] for index in range(len(dialogues))])


def save_mixture(model: MixtureOfExperts, directory: Path) -> None:
    """Write ``mixture.safetensors`` and ``mixture.json`` (configuration, widths, classes)."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / "mixture.safetensors"
    )
    description = {
        "config": model.config.model_dump(mode="json"),
        "dimensions": model.dimensions,
        "classes": model.classes,
    }
    (directory / "mixture.json").write_text(json.dumps(description, indent=1), encoding="utf-8")


class _Description(BaseModel):
    """The content of ``mixture.json``."""

    config: MixtureConfig
    dimensions: dict[Segment, Annotated[int, Field(gt=0)]] = Field(min_length=1)
    classes: int = Field(gt=0)

    def model(self) -> MixtureOfExperts:
        return MixtureOfExperts(self.config, self.dimensions, self.classes)


def load_mixture(directory: Path) -> MixtureOfExperts:
    """Read what :func:`save_mixture` wrote, in evaluation mode.

    Raises:
        ArtifactError: the files do not describe a mixture, or the weights are not its own or not finite.
    """
    file, weights_file = directory / "mixture.json", directory / "mixture.safetensors"
    weights, _ = read_weights(weights_file)
    try:
        content = read_json(file)
        description = _Description.model_validate({**content, "config": _BEFORE_THE_SETTING | content["config"]})
        config = description.config
        if max(config.gru_layers, config.fusion_blocks, len(config.kernels), len(description.dimensions)) > len(
            weights
        ):
            raise ValueError("it has more layers than the file of weights")
        with torch.device("meta"):  # sizes without memory
            expected = description.model().state_dict()
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise ArtifactError(f"{file} does not describe a mixture ({_reason(error)})", OTHER_MODEL) from error
    check_weights(weights_file, weights, expected)
    model = description.model()
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _reason(error: Exception) -> str:
    """Why a description is refused, as a clause."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part)[:50] for part in first['loc'][:4])}: {first['msg']}"
    return f"{shown(error.args[0])} is missing" if isinstance(error, KeyError) else first_line(error)
