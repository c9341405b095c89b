"""The tensors and limits of a model, as its metadata states them; -1 stands for the number of utterances, or one that varies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mistere.predictor.protocol.cells import further_modalities
from mistere.predictor.protocol.codec import expert_names
from mistere.serving import protocol
from mistere.serving.explanation import TURNS

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel


def input_types(model: EmotionModel, *, with_uris: bool) -> list[dict[str, Any]]:
    """The inputs: raw ones if the model has encoders, the mark of context turns, and embeddings.

    Args:
        model: the model.
        with_uris: whether the server reads ``audio_uri``.
    """
    raw = [name for name in protocol.RAW_INPUTS if model.encoder_digests and (with_uris or name != protocol.AUDIO_URI)]
    types: list[dict[str, Any]] = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in raw]
    types += [_raw_input(modality, model) for modality in further_modalities(model)]
    types.append({"name": protocol.PREDICT, "datatype": "BOOL", "shape": [-1]})
    for modality in protocol.in_order(model.dimensions):
        width = model.dimensions[modality]
        types.append({"name": protocol.embedding_name(modality), "datatype": "FP32", "shape": [-1, width]})
    return types


def output_types(model: EmotionModel) -> list[dict[str, Any]]:
    """The outputs, in the order of a response."""
    labels, experts = len(model.labels), len(expert_names(model.experts))
    types: list[dict[str, Any]] = [
        {"name": protocol.LABEL, "datatype": "BYTES", "shape": [-1]},
        {"name": protocol.PROBABILITIES, "datatype": "FP32", "shape": [-1, labels]},
        {"name": protocol.EXPERT_WEIGHTS, "datatype": "FP32", "shape": [-1, experts]},
        {"name": protocol.EXPERT_PROBABILITIES, "datatype": "FP32", "shape": [-1, experts, labels]},
        {"name": protocol.MODALITIES_USED, "datatype": "BYTES", "shape": [-1]},
    ]
    if model.transcriber is not None:
        types.append({"name": protocol.TEXT_SOURCE, "datatype": "BYTES", "shape": [-1]})
    return [
        *types,
        {"name": protocol.MODALITY_CONTRIBUTIONS, "datatype": "FP32", "shape": [-1, len(model.dimensions)]},
        {"name": protocol.BASELINE_PROBABILITIES, "datatype": "FP32", "shape": [-1]},
        {"name": protocol.INFLUENTIAL_TURNS, "datatype": "INT32", "shape": [-1, TURNS]},
        {"name": protocol.TURN_INFLUENCES, "datatype": "FP32", "shape": [-1, TURNS]},
    ]


def _raw_input(modality: str, model: EmotionModel) -> dict[str, Any]:
    """The raw tensor of a modality, as its kind has it."""
    kind = model.kind(modality)
    if kind.datatype == "FP32":
        return {"name": modality, "datatype": "FP32", "shape": [-1, model.input_width(modality) or -1]}
    return {"name": modality, "datatype": "BYTES", "shape": [-1, -1] if kind.several else [-1]}


def stated_limits(model: EmotionModel) -> dict[str, str]:
    """The limits of the cells of further modalities as the model's metadata states them: ``limit.face.frames``: ``64``."""
    return {
        f"limit.{modality}.{name}": str(value)
        for modality in further_modalities(model)
        for name, value in model.kind(modality).limits.items()
    }
