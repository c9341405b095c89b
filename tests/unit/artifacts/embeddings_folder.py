"""Writes a small folder of embeddings in the form that `mistere train` imports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LABELS = ["anger", "joy", "sadness"]


def write_embeddings(
    folder: Path,
    modalities: Sequence[str] = ("speech", "text"),
    *,
    dialogues: int = 30,
    shuffled: bool = False,
    columns: dict[str, Any] | None = None,
    whole_numbers: bool = False,
) -> Path:
    """Write embeddings that depend on the label in every modality; some rows are NaN. ``columns`` replaces columns of the table."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    split, names, turns, labels = [], [], [], []
    for index in range(dialogues):
        for turn in range(int(rng.integers(2, 7))):
            split.append("train" if index < dialogues * 0.6 else "dev" if index < dialogues * 0.8 else "test")
            names.append(f"d{index}")
            turns.append(turn)
            labels.append(int(rng.integers(0, 3)))
    matrices = {}
    for name in modalities:
        matrix = (rng.normal(size=(3, 8))[labels] + rng.normal(size=(len(labels), 8))).astype(np.float32)
        matrix[(rng.random(len(labels)) < 0.15) & (np.array(turns) > 0)] = np.nan
        matrices[name] = matrix
    order = rng.permutation(len(labels)) if shuffled else np.arange(len(labels))
    table = {
        "split": [split[i] for i in order],
        "dialogue_id": [names[i] for i in order],
        "turn": [turns[i] for i in order],
        "label": [labels[i] if whole_numbers else LABELS[labels[i]] for i in order],
    } | (columns or {})
    pq.write_table(
        pa.table({name: column for name, column in table.items() if column is not None}), folder / "utterances.parquet"
    )
    for name, matrix in matrices.items():
        np.save(folder / f"{name}.npy", matrix[order])
    return folder


def edit(folder: Path, column: str, row: int, value: object) -> None:
    """Replace one cell of the table."""
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    table[column][row] = value
    pq.write_table(pa.table(table), folder / "utterances.parquet")
