"""The shape, the values and the length of a request's tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kserve import InferInput

from mistere.common.counting import counted
from mistere.predictor.errors import invalid, over_limit
from mistere.predictor.settings import Limits


def check_length(utterances: int, limits: Limits) -> None:
    """Reject an empty dialogue and one that exceeds the limit."""
    if utterances == 0:
        raise invalid("The dialogue has no utterances.")
    if utterances > limits.utterances:
        raise over_limit(f"A request may hold {counted(limits.utterances, 'utterance')}; this one holds {utterances}.")


def is_shape(shape: Sequence[Any], dimensions: int) -> bool:
    """Whether a tensor states a shape of this many dimensions."""
    return len(shape) == dimensions and all(type(size) is int and size >= 0 for size in shape)


def tensor_data(tensor: InferInput) -> Any:
    """A tensor's values; in process, a kserve client may have set them as raw bytes."""
    if tensor.data is not None:
        return tensor.data
    try:
        return tensor.as_numpy()
    except Exception as error:
        raise invalid(f"The bytes of the tensor {tensor.name} do not match its shape.") from error
