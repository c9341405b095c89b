"""Write graphs: PyTorch runs a module once on an example and records its operations.

The recorder is PyTorch's own for TorchScript (``dynamo=False``), which needs the package ``onnx`` alone, and whose graphs are plain
operations. The one for ``torch.export`` needs ``onnxscript`` too, and cannot follow a GRU over dialogues of different lengths.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mistere.common.errors import MistereError
from mistere.common.parsing.documents import first_line
from mistere.model.encoders.families.family import Family
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from mistere.model.mixture.mixture import DialogueBatch, MixtureOfExperts
from mistere.model.onnx.encoders import OUTPUT
from mistere.model.onnx.mixture import LENGTHS, OUTPUTS, input_names
from mistere.model.onnx.padded_dialogues import PaddedDialogues, PaddedRecurrences
from mistere.model.onnx.session import missing_package

OPSET: Final = 18
_AXES: Final[Mapping[str, Mapping[int, str]]] = {
    "input_ids": {0: "utterances", 1: "tokens"},
    "mask": {0: "utterances", 1: "tokens"},
    "pooled": {0: "utterances", 1: "tokens"},
    "samples": {1: "samples"},
    "values": {0: "utterances"},
}
_TRACED_SECONDS = 1.37


class _EncoderGraph(nn.Module):
    """Utterance vectors ``[B, d]`` from the inputs that the encoder's family names."""

    def __init__(self, encoder: UtteranceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> Tensor:
        family = self.encoder.family
        named = dict(zip(family.graph_inputs, inputs, strict=True))
        return self.encoder.vectors(*family.graph_states(self.encoder.backbone, named))


class _MixtureGraph(nn.Module):
    """Calibrated probabilities, experts' weights and experts' probabilities from padded vectors, their presence and lengths."""

    def __init__(self, mixture: MixtureOfExperts, temperature: float) -> None:
        super().__init__()
        self.mixture = copy.copy(mixture)
        self.mixture.recurrences = PaddedRecurrences()
        self.temperature = temperature

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        names = self.mixture.modalities
        vectors, presence, lengths = inputs[0:-1:2], inputs[1:-1:2], inputs[-1]
        turns = torch.ones_like(presence[0], dtype=torch.long).cumsum(1)
        inside = turns <= lengths[:, None]
        marks = [one & inside for one in presence]
        zero = vectors[0].new_zeros(())
        rows = [torch.where(mark[..., None], one, zero).flatten(0, 1) for one, mark in zip(vectors, marks, strict=True)]
        layout: Any = PaddedDialogues(lengths, inside)
        output = self.mixture(
            DialogueBatch(
                dict(zip(names, rows, strict=True)),
                {name: mark.flatten() for name, mark in zip(names, marks, strict=True)},
                layout,
            )
        )
        answers = (
            (output.logits / self.temperature).softmax(-1),
            output.weights,
            output.expert_logits.softmax(-1),
        )
        probabilities, weights, experts = (one.reshape(*inside.shape, *one.shape[1:]) for one in answers)
        return probabilities, weights, experts


def write_encoder(encoder: UtteranceEncoder, modality: str, path: Path) -> None:
    """Write the graph of an encoder in evaluation mode and float32, on a CPU.

    Raises:
        MistereError: its family cannot be exported, or PyTorch cannot record it.
    """
    family = encoder.family
    if not family.graph_inputs:
        raise MistereError(
            f"the {modality} encoder cannot be exported: models of the family {family.name} are not made for small devices; export a "
            "student of the bundle, or a bundle without this modality."
        )
    axes = {name: dict(_AXES[name]) for name in family.graph_inputs}
    batch = {} if family.kind == "audio" else {OUTPUT: {0: "utterances"}}
    _write(
        _EncoderGraph(encoder),
        _example_inputs(family),
        path,
        family.graph_inputs,
        [OUTPUT],
        axes | batch,
        f"the {modality} encoder",
    )


def write_mixture(mixture: MixtureOfExperts, temperature: float, path: Path) -> None:
    """Write the graph of a mixture in evaluation mode, with its calibration.

    Raises:
        MistereError: PyTorch cannot record it.
    """
    lengths = torch.tensor([5, 3])
    inputs: list[Tensor] = []
    draw = torch.Generator().manual_seed(0)
    for width in mixture.dimensions.values():
        inputs += [torch.randn(2, 5, width, generator=draw), torch.rand(2, 5, generator=draw) > 0.3]
    names = input_names(mixture.modalities)
    axes = {name: {0: "dialogues", 1: "turns"} for name in (*names, *OUTPUTS)} | {LENGTHS: {0: "dialogues"}}
    _write(_MixtureGraph(mixture, temperature).eval(), [*inputs, lengths], path, names, OUTPUTS, axes, "the mixture")


def _example_inputs(family: Family) -> list[Tensor]:
    """Inputs to record an encoder with; their sizes are no sizes of its weights."""
    if family.kind == "text":
        tokens = torch.full((2, 7), 5)
        mask = torch.arange(7)[None, :] < torch.tensor([[7], [4]])
        return [tokens, mask, mask]
    if family.kind == "audio":
        return [torch.randn(1, int(_TRACED_SECONDS * 16000), generator=torch.Generator().manual_seed(0)) / 10]
    return [torch.randn(2, family.input_width or 1, generator=torch.Generator().manual_seed(0))]


def _write(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Mapping[str, dict[int, str]],
    what: str,
) -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise missing_package("an export", "onnx") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter(
                "ignore"
            )  # that the recorder is an older one, and each size that it records as a number
            torch.onnx.export(
                module.eval(),
                tuple(inputs),
                str(path),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_axes=dict(axes),
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # the recorder raises many classes, for what a module may do
        raise MistereError(
            f"{what} cannot be exported ({first_line(error)}): export a student of the bundle."
        ) from error
