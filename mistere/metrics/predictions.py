"""Reads a predictions file for comparisons and reports, without importing the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mistere.common.errors import ArtifactError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import read_parquet

PREDICTIONS_FILE = "predictions.parquet"
CHAMPION_FILE = "champion.parquet"
ANCHOR_FILE = "anchor.parquet"


@dataclass(frozen=True)
class Predictions:
    """A predictions file: dialogue of each utterance, true labels ``[N]``, probabilities ``[N, C]``."""

    dialogues: list[str]
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each utterance ``[N]``."""
        return np.asarray(self.probabilities.argmax(1))

    def same_test(self, other: Predictions) -> bool:
        """Whether both are of the same utterances with the same true labels."""
        return self.dialogues == other.dialogues and np.array_equal(self.labels, other.labels)


def read_predictions(path: Path) -> Predictions:
    """Read what :func:`mistere.evaluation.split_metrics.write_predictions` wrote.

    Raises:
        ArtifactError: the file is not readable parquet.
    """
    try:
        table = read_parquet(path, ["dialogue_id", "label", "probabilities"]).combine_chunks()
    except ParseError as error:
        raise ArtifactError(
            f"{path} is not readable parquet: {error}", "run the pipeline again to evaluate the model"
        ) from error
    rows = table["probabilities"].combine_chunks()
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    probabilities = flat.reshape(len(table), -1).astype(np.float32)
    return Predictions(table["dialogue_id"].to_pylist(), table["label"].to_numpy().astype(np.int64), probabilities)
