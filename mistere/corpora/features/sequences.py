"""The form that every feature file is read into: frames by name, and the mean of those that belong to an utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mistere.common.errors import DataError
from mistere.corpora.features.span import Span
from mistere.data.kinds.vector import MAX_WIDTH


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of one utterance or of one dialogue.

    Attributes:
        features: ``[T, D]``.
        intervals: start and end of each frame in seconds ``[T, 2]``; None if the file has no times.
    """

    features: NDArray[np.float32]
    intervals: NDArray[np.float64] | None = None

    def between(self, start: float, end: float) -> NDArray[np.float32]:
        """The frames whose middle lies in a span of time, or else those that overlap it."""
        assert self.intervals is not None
        middle = self.intervals.mean(axis=1)
        inside = (middle >= start) & (middle < end)
        if not inside.any():
            inside = (self.intervals[:, 0] < end) & (self.intervals[:, 1] > start)
        return self.features[inside]


class FeatureFile(Protocol):
    """An opened file of features."""

    def frames(self, name: str) -> Frames | None:
        """The frames that the file has under a name, of its own width each; None if there are none.

        Raises:
            DataError: they are no numbers, too many, or damaged.
        """
        ...

    def names(self) -> list[str]:
        """Some names of the file, to be shown in errors."""
        ...


def mean_of(file: FeatureFile, path: Path, span: Span) -> NDArray[np.float64] | None:
    """The mean of an utterance's frames ``[D]``, over the finite values of each column (NaN if there is none).

    Args:
        file: the file.
        path: its path, for errors.
        span: the utterance.

    Returns:
        None if the file has no frames of the utterance.

    Raises:
        DataError: as :meth:`FeatureFile.frames`, or the file has frames of the whole dialogue, but no times.
    """
    for name in span.names:
        if (own := file.frames(name)) is not None:
            return _mean(own.features)
    whole = file.frames(span.dialogue)
    if whole is None:
        return None
    if whole.intervals is None or span.start is None or span.end is None:
        lacking = "no times of its frames" if whole.intervals is None else "frames of it, and the corpus no times"
        raise DataError(
            f"{path}: for the utterance {span.names[0]} there is only the dialogue {span.dialogue}, with {lacking}: "
            f"name the features by utterance, as {span.names[0]}."
        )
    return _mean(whole.between(span.start, span.end))


def _mean(frames: NDArray[np.float32]) -> NDArray[np.float64] | None:
    if not len(frames):
        return None
    finite = np.isfinite(frames)
    counts = finite.sum(axis=0)
    total = np.where(finite, frames, 0).sum(axis=0, dtype=np.float64)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def grouped(
    names: Sequence[str], features: NDArray[np.float32], intervals: NDArray[np.float64] | None = None
) -> dict[str, Frames]:
    """Rows with the same name as the frames of one utterance or dialogue.

    Args:
        names: of each row ``[N]``.
        features: ``[N, D]``.
        intervals: ``[N, 2]``, if the file has times.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {
        name: Frames(features[chosen], None if intervals is None else intervals[chosen])
        for name, chosen in rows.items()
    }


def checked_matrix(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    """Features as ``[T, D]``; one vector becomes one frame.

    Raises:
        DataError: they are no numbers, empty, or have more than two dimensions or too many columns.
    """
    if values.dtype.kind not in "fiu":
        raise DataError(f"{where} holds {values.dtype} values, not numbers: name a file of features.")
    if values.ndim not in (1, 2) or not values.size or values.shape[-1] > MAX_WIDTH:
        shape = " x ".join(map(str, values.shape)) or "a single number"
        raise DataError(f"{where} has the shape {shape}: frames x features (at most {MAX_WIDTH}) are expected.")
    with np.errstate(over="ignore"):
        return np.atleast_2d(values).astype(np.float32)
