"""Standardisation of a modality's embeddings by the statistics of the train split, as part of the model; what is remarkable about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.counting import plural
from mistere.config.mixture import MixtureConfig
from mistere.model.embeddings import EmbeddedDialogues

_CLIP = 5.0
"""Limit of a standardised value. Acoustic features have outliers of hundreds of standard deviations."""
_FLAT = 1e-6
"""Standard deviation, relative to the column's largest value, below which a column counts as constant."""
_WIDE, _NARROW = 100.0, 0.01
"""Ratio of a column's standard deviation to the median column's from which it dominates, or hardly counts, unscaled."""


@dataclass(frozen=True)
class ColumnStatistics:
    """Mean and standard deviation ``[D]`` of the columns, and whether a column is constant ``[D]``."""

    mean: np.ndarray
    deviation: np.ndarray
    constant: np.ndarray

    @classmethod
    def of(cls, dialogues: Iterable[np.ndarray], width: int) -> ColumnStatistics | None:
        """Measure rows ``[n, D]`` dialogue by dialogue.

        Args:
            dialogues: the rows; those with a NaN are of absent utterances and are left out.
            width: D.

        Returns:
            The statistics; None if no row is left.
        """
        count, total, squares = 0, np.zeros(width), np.zeros(width)
        shift: np.ndarray | None = None
        largest = np.zeros(width)
        for rows in dialogues:
            rows = np.asarray(rows, dtype=np.float64)
            rows = rows[~np.isnan(rows).any(1)]
            if not len(rows):
                continue
            shift = rows[0] if shift is None else shift  # near the mean, so that the squares keep their digits
            count += len(rows)
            with np.errstate(over="ignore", invalid="ignore"):  # infinite values are found in the training
                total += (rows - shift).sum(0)
                squares += ((rows - shift) ** 2).sum(0)
            largest = np.maximum(largest, np.abs(rows).max(0))
        if shift is None:
            return None
        deviation = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
        constant = deviation <= _FLAT * np.maximum(largest, np.finfo(np.float32).tiny)
        return cls(shift + total / count, deviation, constant)


class InputScaling(nn.Module):
    """Shifts and scales the columns of one modality: ``[N, D]`` to ``[N, D]``, clipped to ±5.

    Before :meth:`fit` it changes nothing but the clipping. A column that is constant in train becomes zero.

    Args:
        width: D.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, dialogues: Iterable[np.ndarray]) -> None:
        """Take mean and standard deviation of the columns from the rows ``[n, D]`` of each dialogue of the train split."""
        columns = ColumnStatistics.of(dialogues, len(self.mean))
        if columns is None:
            return
        scale = np.divide(1.0, columns.deviation, out=np.zeros(len(self.scale)), where=~columns.constant)
        self.mean.copy_(torch.from_numpy(columns.mean))
        self.scale.copy_(torch.from_numpy(scale))

    def forward(self, rows: Tensor, present: Tensor) -> Tensor:
        """Standardised rows ``[N, D]``; rows that are not ``present`` ``[N]`` stay zero."""
        return ((rows - self.mean) * self.scale).clamp(-_CLIP, _CLIP) * present[:, None]


def column_notes(config: MixtureConfig, data: EmbeddedDialogues) -> list[str]:
    """Sentences about modalities with constant columns, or with columns whose scales keep others from counting.

    Args:
        config: the mixture's section; whether it standardises decides what to say.
        data: embeddings; only train is read.
    """
    notes = []
    for name, width in data.dimensions.items():
        columns = ColumnStatistics.of((data.read(dialogue)[name] for dialogue in data.split("train")), width)
        if columns is not None:
            notes += [f"{name}: {note}." for note in _notes(columns, config.standardise)]
    return notes


def _notes(columns: ColumnStatistics, standardise: bool) -> list[str]:
    notes = []
    deviations = columns.deviation[~columns.constant]
    if len(deviations):
        ratio = deviations / np.median(deviations)
        if (ratio > _WIDE).any() or (ratio < _NARROW).any():
            factor = float(f"{deviations.max() / deviations.min():.2g}")
            consequence = (
                "they are standardised"
                if standardise
                else "the small ones hardly count; set mixture.standardise=true to standardise them"
            )
            notes.append(f"the standard deviations of its columns differ by a factor of {factor:,.0f}: {consequence}")
    constant = int(columns.constant.sum())
    if constant and standardise:  # without, a constant column is like a bias of the first layer
        notes.append(f"{constant} of its columns {plural(constant, 'is', 'are')} constant in train and not used")
    return notes
