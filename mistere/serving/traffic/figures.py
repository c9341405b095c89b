"""The figures that are counted of an endpoint's answers, with fixed keys and fixed bins.

All counts are one array whose layout follows from the bundle alone, so no request can make them grow. They hold no text, recording,
vector, identifier of a dialogue or speaker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.data.profile import EDGES
from mistere.data.scripts import SCRIPT_NAMES

if TYPE_CHECKING:
    from mistere.artifacts.manifests import ModelBundle

OTHER: Final = "other"
NO_MODALITY: Final = "none"
_UNIT: Final = (0.0, 1.0)
_CONFIDENCE_BINS, _PROBABILITY_BINS, _WEIGHT_BINS = 20, 10, 20

TOTALS: Final = ("requests", "dialogues", "turns", "resent", "context", "recordings", "texts", "pairs")
"""Keys of the figure ``total``. ``pairs`` are pairs of turns of one dialogue: they say how long the dialogues are. The figure
``label_pairs`` counts for each label the pairs of which none, one or both turns have it, which tells how alike the turns of a dialogue are."""
TOTAL_POSITIONS: Final = {key: place for place, key in enumerate(TOTALS)}
"""Positions of these counts: they come first in the array."""


@dataclass(frozen=True)
class Figure:
    """A figure: a histogram, or a count, for each of its keys.

    Attributes:
        name: its name in files.
        keys: what it is counted for, such as the labels; one empty text where it has no keys.
        bins: bins of each key's histogram; 1 for a count.
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        start: position of its first count in the array.
    """

    name: str
    keys: tuple[str, ...]
    bins: int = 1
    low: float = 0.0
    high: float = 0.0
    start: int = 0

    @property
    def size(self) -> int:
        """The number of its counts."""
        return len(self.keys) * self.bins

    @property
    def edges(self) -> np.ndarray:
        """Edges of the bins ``[bins + 1]``."""
        return np.linspace(self.low, self.high, self.bins + 1)

    def position(self, value: float) -> int:
        """The position of a value; one outside of the edges is counted in the outermost bin."""
        scaled = (value - self.low) * self.bins / (self.high - self.low)
        return self.start + int(min(max(scaled, 0.0), self.bins - 1))


@dataclass(frozen=True)
class Figures:
    """The figures of a bundle's traffic.

    Args:
        labels: the bundle's labels.
        experts: the names of the experts, in the order of the weights.
        modalities: the modalities that the model reads.
    """

    labels: tuple[str, ...]
    experts: tuple[str, ...]
    modalities: tuple[str, ...]

    @classmethod
    def of(cls, bundle: ModelBundle) -> Figures:
        """The figures of a bundle, whose experts are those of the model alone."""
        return cls(tuple(bundle.labels), tuple(bundle.experts), tuple(sorted(bundle.encoders or bundle.vectors)))

    @cached_property
    def by_name(self) -> dict[str, Figure]:
        """The figures by name, in the order of the array."""
        figures = [
            Figure("total", TOTALS),
            Figure("label", self.labels),
            Figure("probability", self.labels, _PROBABILITY_BINS, *_UNIT),
            Figure("confidence", ("",), _CONFIDENCE_BINS, *_UNIT),
            Figure("weight", self.experts, _WEIGHT_BINS, *_UNIT),
            Figure("modality", (*self.modalities, NO_MODALITY)),
            Figure("script", (*SCRIPT_NAMES, OTHER)),
            Figure("label_pairs", self.labels, 3, -0.5, 2.5),
            *(Figure(name, ("",), bins, low, high) for name, (low, high, bins) in EDGES.items()),
        ]
        placed: dict[str, Figure] = {}
        start = 0
        for figure in figures:
            placed[figure.name] = Figure(figure.name, figure.keys, figure.bins, figure.low, figure.high, start)
            start += figure.size
        return placed

    @cached_property
    def size(self) -> int:
        """The number of counts."""
        return sum(figure.size for figure in self.by_name.values())

    @cached_property
    def unit_layout(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For the probabilities, the confidence and the weights of a turn, ``[C + 1 + E]`` each: bins, last bin, first position."""
        names = ("probability", "confidence", "weight")
        placed = [(self.by_name[name], key) for name in names for key in range(len(self.by_name[name].keys))]
        bins = np.array([figure.bins for figure, _ in placed], np.float32)
        return bins, bins - 1, np.array([figure.start + key * figure.bins for figure, key in placed])

    @cached_property
    def modality_positions(self) -> dict[str, int]:
        """The position of each modality's count."""
        figure = self.by_name["modality"]
        return {name: figure.start + place for place, name in enumerate(figure.keys)}

    @cached_property
    def script_positions(self) -> dict[str, int]:
        """The position of each script's count."""
        figure = self.by_name["script"]
        return {name: figure.start + place for place, name in enumerate(figure.keys)}

    def empty(self) -> Counts:
        """Counts of nothing."""
        return Counts(self, np.zeros(self.size, np.int64))


@dataclass(frozen=True)
class Counts:
    """Counts of a bundle's traffic.

    Attributes:
        figures: their layout.
        values: the counts, int64 ``[figures.size]``.
    """

    figures: Figures
    values: np.ndarray

    def __add__(self, other: Counts) -> Counts:
        """The sum of counts with the same layout."""
        return Counts(self.figures, self.values + other.values)

    def table(self, name: str) -> np.ndarray:
        """The counts of a figure ``[keys, bins]``, as a view."""
        figure = self.figures.by_name[name]
        return self.values[figure.start : figure.start + figure.size].reshape(len(figure.keys), figure.bins)

    def by_key(self, name: str) -> dict[str, int]:
        """The counts of a figure by key, over all bins."""
        return dict(zip(self.figures.by_name[name].keys, self.table(name).sum(1).tolist(), strict=True))

    def total(self, key: str) -> int:
        """A count of the figure ``total``."""
        return int(self.values[TOTAL_POSITIONS[key]])


def prediction_positions(
    figures: Figures, probabilities: np.ndarray, weights: np.ndarray, modalities: Sequence[str]
) -> np.ndarray:
    """Where n predicted turns count: labels, probabilities, confidence, weights and modalities.

    An expert that is absent from a turn has no weight there, and counts nowhere.

    Args:
        figures: the layout.
        probabilities: ``[n, C]``, of which none is NaN.
        weights: the weights of the layout's experts ``[n, E]``; exactly 0 where an expert is absent.
        modalities: the present modalities of each turn, ``+``-joined or ``none``.
    """
    scale, most, start = figures.unit_layout
    label = probabilities.argmax(1)
    confidence = probabilities[np.arange(len(label)), label]
    values = np.concatenate([probabilities, confidence[:, None], weights], axis=1)
    positions = np.minimum(values * scale, most).astype(np.int64) + start
    shared = probabilities.shape[1] + 1
    places = figures.modality_positions
    present = [places[name] for joined in modalities for name in joined.split("+") if name in places]
    return np.concatenate(
        [
            label + figures.by_name["label"].start,
            positions[:, :shared].ravel(),
            positions[:, shared:][weights > 0],
            np.array(present, np.int64),
        ]
    )


def pair_counts(predicted: np.ndarray, new: np.ndarray, labels: int) -> np.ndarray:
    """Pairs of a new turn with each earlier turn of its dialogue: for each label those of which none, one or both turns have it ``[labels, 3]``.

    Args:
        predicted: classes ``[n]`` of the predicted turns of a dialogue.
        new: which of them are new ``[n]``.
        labels: number of classes.
    """
    count = len(predicted)
    has = predicted[:, None] == np.arange(labels)
    earlier = has.cumsum(0) - has
    before = np.arange(count)[:, None]
    both = np.where(has, earlier, 0)
    any_of_both = np.where(has, before, earlier)
    return np.stack([before - any_of_both, any_of_both - both, both], axis=2)[new].sum(0)
