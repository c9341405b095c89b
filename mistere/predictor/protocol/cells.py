"""Convert tensors and JSON fields of modalities beside speech and text to cells, as the kind of each says.

A cell is checked before it is decoded or priced: its sizes, the headers of its images, its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.common.counting import counted
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.predictor.errors import invalid, unreadable
from mistere.predictor.protocol.tensors import bytes_elements, decode_base64
from mistere.serving import protocol

if TYPE_CHECKING:
    from mistere.data.kinds.kind import Kind
    from mistere.model.dialogue_model import EmotionModel


def further_modalities(model: EmotionModel) -> list[str]:
    """The modalities of a model beside speech and text, whose raw tensors have their names."""
    return [name for name in model.encoder_digests if name not in IMPLICIT_KINDS]


def cells_of_tensor(name: str, tensor: Any, data: Any, model: EmotionModel) -> list[Any | None]:
    """The cells of a tensor, one for each utterance; None where it has none.

    Args:
        name: the modality.
        tensor: datatype, shape and parameters.
        data: the tensor's elements.
        model: the model.

    Raises:
        RequestError: the tensor has another form than the kind's, or an element cannot be used.
    """
    kind = model.kind(name)
    if tensor.datatype != kind.datatype:
        raise invalid(f"The tensor {name} must have the datatype {kind.datatype}.")
    shape = list(tensor.shape)
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) not in (1, 2):
        raise invalid(f"The tensor {name} must have the shape {_form(kind)}.")
    if kind.datatype == "FP32":
        rows: Iterable[Any] = _numbers(name, shape, data, model.input_width(name))
    else:
        content = (tensor.parameters or {}).get(protocol.CONTENT_TYPE)
        rows = _elements(name, shape, data, kind, content)
    return [_checked(kind, name, index, row) for index, row in enumerate(rows)]


def cell_of_json(name: str, value: Any, index: int, model: EmotionModel) -> Any | None:
    """The cell of a field of V1 JSON: a list of numbers, a list of base64 strings, one of them, or a text.

    Args:
        name: the modality.
        value: the field's value.
        index: of the utterance, for errors.
        model: the model.

    Raises:
        RequestError: the value has another form than the kind's, or cannot be used.
    """
    if value is None:
        return None
    kind = model.kind(name)
    where = f"The field {name} of utterance {index}"
    if kind.datatype == "FP32":
        if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
            raise invalid(f"{where} must be a list of numbers.")
        return _checked(kind, name, index, _one_row(where, value, model.input_width(name))) if value else None
    parts = value if kind.several else [value]
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise invalid(f"{where} must be {'a list of base64 strings' if kind.several else 'a string'}.")
    row = [part.encode() if kind.plain_text else decode_base64(part, where) for part in parts]
    return _checked(kind, name, index, row) if row else None


def check_cells(cells: Mapping[str, Any], index: int, model: EmotionModel) -> dict[str, Any]:
    """The cells of an utterance that the model reads, of which each can be used.

    Args:
        cells: by modality, as Python has them: numbers, a list of encoded files, one of them, or a text.
        index: of the utterance, for errors.
        model: the model.

    Raises:
        RequestError: one has another form than the kind's, or cannot be used.
    """
    given = {name: cells[name] for name in further_modalities(model) if cells.get(name) is not None}
    return {
        name: _checked(model.kind(name), name, index, _row(cell, name, index, model)) for name, cell in given.items()
    }


def _row(cell: Any, name: str, index: int, model: EmotionModel) -> Any:
    """A cell as a row of its tensor: float32 ``[d]``, or a list of BYTES elements."""
    kind, where = model.kind(name), f"The {name} of utterance {index}"
    try:
        row = kind.sent(cell)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise invalid(f"{where} must be {_python_form(kind)}.") from error
    if kind.datatype == "FP32":
        if np.ndim(row) != 1:
            raise invalid(f"{where} must be {_python_form(kind)}.")
        return _one_row(where, row, model.input_width(name))
    if not all(isinstance(part, bytes) for part in row):
        raise invalid(f"{where} must be {_python_form(kind)}.")
    return row


def _python_form(kind: Kind) -> str:
    if kind.datatype == "FP32":
        return "a list of numbers"
    return "a list of files" if kind.several else "a string" if kind.plain_text else "the bytes of a file"


def _form(kind: Kind) -> str:
    return "[n, d]" if kind.datatype == "FP32" else "[n, m]" if kind.several else "[n]"


def _one_row(where: str, values: Any, width: int | None) -> np.ndarray:
    """The numbers float32 ``[d]`` of one utterance."""
    if width is not None and len(values) != width:
        raise invalid(f"{where} must have {counted(width, 'number')}; it has {len(values)}.")
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=np.float32)


def _numbers(name: str, shape: Sequence[int], data: Any, width: int | None) -> np.ndarray:
    """The rows float32 ``[n, d]`` of a tensor; null counts as NaN."""
    if len(shape) != 2:
        raise invalid(f"The tensor {name} must have the shape [n, d].")
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(data, dtype=np.float32)  # null becomes NaN
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"The tensor {name} must hold numbers only.") from error
    if values.size != math.prod(shape) or (values.ndim > 1 and list(values.shape) != list(shape)):
        raise invalid(f"The tensor {name} does not hold the numbers of its shape.")
    if width is not None and shape[1] != width:
        raise invalid(f"The tensor {name} must have {counted(width, 'column')}; it has {shape[1]}.")
    return values.reshape(shape)


def _elements(name: str, shape: Sequence[int], data: Any, kind: Kind, content: Any) -> list[list[bytes]]:
    """The BYTES elements of each utterance."""
    columns = shape[1] if len(shape) == 2 else 1
    if columns != 1 and not kind.several:
        raise invalid(f"The tensor {name} must have the shape [n] or [n, 1].")
    values = data.tolist() if isinstance(data, np.ndarray) else data
    if isinstance(values, list) and values and all(isinstance(row, list) for row in values):
        values = [element for row in values for element in row]
    if not isinstance(values, list) or len(values) != math.prod(shape):
        raise invalid(f"The tensor {name} does not hold the {math.prod(shape)} elements of its shape.")
    elements = bytes_elements(name, values, content, plain_text=kind.plain_text)
    return [elements[row * columns : (row + 1) * columns] for row in range(shape[0])]


def _checked(kind: Kind, name: str, index: int, row: Any) -> Any | None:
    """The cell of a row, which can be used."""
    if kind.datatype == "BYTES" and not len(row):
        return None
    try:
        cell = kind.received(row)
    except UnicodeDecodeError as error:
        raise invalid(f"The {name} of utterance {index} is not valid UTF-8.") from error
    if cell is not None and (problem := kind.problem(cell)):
        raise unreadable(index, name, problem)
    return cell
