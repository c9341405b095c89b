"""Reading a predictions file back, as far as comparisons need it; light, so that the gate stays light."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """A predictions file: dialogue of each utterance, true labels ``[N]``, probabilities ``[N, C]``."""

    dialogues: list[str]
    labels: np.ndarray
    probabilities: np.ndarray


def read_predictions(path: Path) -> Predictions:
    """Read what :func:`components.core.evaluation.write_predictions` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["dialogue_id", "label", "probabilities"]).combine_chunks()
    probabilities = np.array(table["probabilities"].to_pylist(), dtype=np.float32)
    return Predictions(table["dialogue_id"].to_pylist(), table["label"].to_numpy().astype(np.int64), probabilities)
