"""Standardisation of a modality's embeddings by the statistics of the train split, as part of the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.counting import plural

_CLIP = 5.0
"""Limit of a standardised value. Acoustic features have outliers of hundreds of standard deviations."""
_FLAT = 1e-6
"""Standard deviation, relative to the column's largest value, below which a column counts as constant."""
_WIDE, _NARROW = 100.0, 0.01
"""Ratio of a column's standard deviation to the median column's from which it dominates, or hardly counts, unscaled."""


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

    def fit(self, dialogues: Iterable[np.ndarray]) -> str:
        """Take mean and standard deviation of the columns.

        Args:
            dialogues: rows ``[n, D]`` of the train split; rows with a NaN are of absent utterances and are left out.

        Returns:
            A sentence about columns whose scale would have kept others from counting; empty if there is none.
        """
        width = len(self.mean)
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
            return ""
        deviation = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
        flat = deviation <= _FLAT * np.maximum(largest, np.finfo(np.float32).tiny)
        scale = np.divide(1.0, deviation, out=np.zeros(width), where=~flat)
        self.mean.copy_(torch.from_numpy(shift + total / count))
        self.scale.copy_(torch.from_numpy(scale))
        return _note(deviation[~flat], int(flat.sum()))

    def forward(self, rows: Tensor, present: Tensor) -> Tensor:
        """Standardised rows ``[N, D]``; rows that are not ``present`` ``[N]`` stay zero."""
        return ((rows - self.mean) * self.scale).clamp(-_CLIP, _CLIP) * present[:, None]


def _note(deviations: np.ndarray, constant: int) -> str:
    notes = []
    if len(deviations):
        ratio = deviations / np.median(deviations)
        if (ratio > _WIDE).any() or (ratio < _NARROW).any():
            notes.append(
                f"the standard deviations of its columns differ by a factor of {deviations.max() / deviations.min():.2g}; they are "
                "standardised"
            )
    if constant:
        notes.append(f"{constant} of its columns {plural(constant, 'is', 'are')} constant in train and not used")
    return "; ".join(notes)
