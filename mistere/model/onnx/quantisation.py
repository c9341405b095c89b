"""Graphs in 8-bit integers: a quarter of the size, and faster on most CPUs. Weighted F1 on a dataset shows what that costs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

_OPERATIONS: Final = ["MatMul", "Gather"]
"""Products with weights, and tables of embeddings. Convolutions and recurrences stay in float32: they hold few weights, and a convolution
in integers is slower."""


def quantise_graph(path: Path) -> None:
    """Replace a graph by one with 8-bit weights, one scale for each column, and activations that are quantised as they come.

    The weights are unsigned: on processors without VNNI, sums of products of signed ones overflow, and twice as many labels change.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name(f".{path.name}")
    path.rename(whole)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises, on the root logger, to infer shapes first, which changes nothing here
    try:
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=_OPERATIONS,
            per_channel=True,
            weight_type=QuantType.QUInt8,
        )
    finally:
        root.setLevel(level)
        whole.unlink()
