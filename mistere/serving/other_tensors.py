"""The tensors and JSON fields of modalities beside speech and text, by the form of their cells.

A numpy array becomes a row of an ``FP32 [n, d]`` tensor, NaN where an utterance has none; files (images) become elements of a
``BYTES [n, m]`` tensor, empty where there are fewer; a single file or a text is one element.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mistere.common.errors import UsageError
from mistere.serving import protocol
from mistere.serving.vectors import VectorDialogue


def other_columns(dialogue: Sequence[Any] | VectorDialogue) -> dict[str, np.ndarray]:
    """Modality → float32 ``[n, d]`` or an object array of bytes ``[n, m]``, of every modality that an utterance has in ``others``.

    Raises:
        UsageError: the vectors of a modality differ in width.
    """
    if isinstance(dialogue, VectorDialogue):
        return {}
    cells: list[Mapping[str, Any]] = [getattr(utterance, "others", None) or {} for utterance in dialogue]
    names = dict.fromkeys(name for own in cells for name, cell in own.items() if cell is not None)
    return {name: _column(name, [own.get(name) for own in cells]) for name in names}


def _column(name: str, cells: Sequence[Any]) -> np.ndarray:
    present = [cell for cell in cells if cell is not None]
    if isinstance(present[0], np.ndarray):
        widths = {len(cell) for cell in present}
        if len(widths) > 1:
            raise UsageError(
                f"the {name} vectors have {' and '.join(map(str, sorted(widths)))} values: send vectors of one width."
            )
        rows = np.full((len(cells), widths.pop()), np.nan, np.float32)
        for index, cell in enumerate(cells):
            if cell is not None:
                rows[index] = cell
        return rows
    lists = [[] if cell is None else _parts(cell) for cell in cells]
    elements = np.full((len(cells), max(map(len, lists))), b"", dtype=object)
    for index, parts in enumerate(lists):
        for column, part in enumerate(parts):
            elements[index, column] = part
    return elements


def _parts(cell: Any) -> list[bytes]:
    if isinstance(cell, str):
        return [cell.encode()]
    return [cell] if isinstance(cell, bytes) else list(cell)


def json_tensor(name: str, rows: np.ndarray) -> dict[str, Any]:
    """A column of :func:`other_columns` as a tensor in JSON."""
    if rows.dtype != object:
        data = [None if value != value else value for value in rows.ravel().tolist()]
        return {"name": name, "datatype": "FP32", "shape": list(rows.shape), "data": data}
    return {
        "name": name,
        "datatype": "BYTES",
        "shape": list(rows.shape),
        "parameters": {protocol.CONTENT_TYPE: protocol.BASE64},
        "data": [base64.b64encode(part).decode() for part in rows.ravel().tolist()],
    }


def json_fields(utterance: Any) -> dict[str, Any]:
    """The fields of an utterance's further modalities in V1 JSON."""
    fields: dict[str, Any] = {}
    for name, cell in (getattr(utterance, "others", None) or {}).items():
        if isinstance(cell, np.ndarray):
            fields[name] = cell.tolist()
        elif isinstance(cell, str):
            fields[name] = cell
        elif isinstance(cell, bytes):
            fields[name] = base64.b64encode(cell).decode()
        elif cell is not None:
            fields[name] = [base64.b64encode(part).decode() for part in cell]
    return fields
