"""Vectors in a request: the tensors ``MODALITY_embedding``, and what a model without encoders answers to anything else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from kserve import InferInput

from mistere.common.counting import counted
from mistere.predictor.errors import RequestError, invalid, own_words
from mistere.predictor.protocol.tensors import check_length, is_shape, tensor_data
from mistere.predictor.settings import Limits
from mistere.serving import protocol

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel


def takes_vectors(model: EmotionModel) -> RequestError:
    """The error of a request with text or audio for a model without encoders."""
    tensors = " and ".join(
        f"{name} [n, {model.dimensions[modality]}]"
        for name, modality in embedding_modalities(model).items()
        if modality in model.dimensions
    )
    return invalid(f"This model takes vectors, not text or audio: send {tensors} (FP32) by the V2 protocol.")


def decode_embeddings(
    tensors: Mapping[str, InferInput], parameters: Mapping[str, Any], model: EmotionModel, limits: Limits
) -> dict[str, np.ndarray]:
    """The vectors of a request: modality → float32 ``[n, d]``, a row of NaN for an utterance without the modality.

    Args:
        tensors: embedding tensors by their names.
        parameters: of the request.
        model: the model.
        limits: limits of a request.

    Raises:
        RequestError: the tensors violate the contract.
    """
    given = {protocol.modality_of(name): tensor for name, tensor in tensors.items()}
    order = protocol.in_order(given)
    _check_encoders(order, parameters.get(protocol.ENCODER_DIGEST), model)
    missing = bool(parameters.get(protocol.NAN_IS_MISSING, False))
    embeddings = {modality: _matrix(given[modality], model.dimensions[modality], limits, missing) for modality in order}
    if len({len(matrix) for matrix in embeddings.values()}) > 1:
        raise invalid("All tensors must have one row for each utterance; their lengths differ.")
    _check_presence(embeddings)
    return embeddings


def check_vectors(vectors: Mapping[str, np.ndarray], encoder_digest: str, model: EmotionModel) -> dict[str, np.ndarray]:
    """Check vectors that did not come as tensors; a row of NaN is an utterance without the modality.

    Args:
        vectors: modality → float32 ``[n, d]``.
        encoder_digest: names the encoders that made them.
        model: the model.

    Raises:
        RequestError: the model takes other modalities or widths, vectors of other encoders, or none of the utterances has a vector.
    """
    order = protocol.in_order(vectors)
    _check_encoders(order, encoder_digest, model)
    for modality in order:
        if vectors[modality].shape[1] != model.dimensions[modality]:
            raise invalid(
                f"A {modality} vector must have {counted(model.dimensions[modality], 'number')}; these have "
                f"{vectors[modality].shape[1]}."
            )
    _check_presence(vectors)
    return {modality: vectors[modality] for modality in order}


def _check_presence(vectors: Mapping[str, np.ndarray]) -> None:
    if all(np.isnan(matrix).all() for matrix in vectors.values()):
        raise invalid(
            f"No utterance of the dialogue has anything this model reads ({' or '.join(vectors)}): every row is NaN."
        )


def _check_encoders(order: Sequence[str], digest: Any, model: EmotionModel) -> None:
    for modality in order:
        if modality not in model.vector_digests:
            raise invalid(f"This model does not read {modality}.")
    named = [modality for modality in order if model.vector_digests[modality]]
    expected = protocol.join_names([model.vector_digests[modality] for modality in named])
    if (digest or "") != expected:
        raise own_words(
            "The parameter encoder_digest must name the encoder this model was trained with "
            f"({' and '.join(named)}): {expected}."
            if expected
            else "The encoders of this model's vectors are not recorded: leave the parameter encoder_digest out."
        )


def embedding_modalities(model: EmotionModel) -> dict[str, str]:
    """The embedding tensors that a server of this model knows → modality."""
    return {
        protocol.embedding_name(modality): modality
        for modality in protocol.in_order({**dict.fromkeys(protocol.EMBEDDING_MODALITY.values()), **model.dimensions})
    }


def _matrix(tensor: InferInput, dimension: int, limits: Limits, nan_is_missing: bool) -> np.ndarray:
    if tensor.datatype != "FP32":
        raise invalid(f"The tensor {tensor.name} must have the datatype FP32.")
    shape = list(tensor.shape)
    if not is_shape(shape, 2):
        raise invalid(f"The tensor {tensor.name} must have the shape [n, d].")
    try:
        values = np.asarray(tensor_data(tensor))
        if nan_is_missing and values.dtype == object:
            values = values.astype(np.float64)  # null is NaN
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"The tensor {tensor.name} does not hold the numbers of its shape.") from error
    if values.size and values.dtype.kind not in "fiu":
        raise invalid(f"The tensor {tensor.name} must hold numbers only.")
    if values.size != math.prod(shape) or (values.ndim > 1 and list(values.shape) != shape):
        raise invalid(f"The tensor {tensor.name} does not hold the numbers of its shape.")
    check_length(shape[0], limits)
    if shape[1] != dimension:
        raise invalid(f"The tensor {tensor.name} must have {counted(dimension, 'column')}; it has {shape[1]}.")
    with np.errstate(over="ignore"):
        matrix = values.astype(np.float32).reshape(shape)
    if np.isfinite(matrix).all():
        return matrix
    absent = np.isnan(matrix).all(1) & nan_is_missing
    if not np.isfinite(matrix[~absent]).all():
        raise invalid(f"The tensor {tensor.name} holds NaN or infinity.")
    return matrix
