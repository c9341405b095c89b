"""The figures of the comparison of a predictor with its shadow, and how a dialogue is counted.

Everything but the list of differing dialogues is counts whose layout follows from the labels of the two models, and that list is
short, so no request can make them grow. They hold no text, recording or vector; of a dialogue only a hash of its request's id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

OUTCOMES: Final = (
    "compared",
    "full",
    "unreachable",
    "slow",
    "busy",
    "refused",
    "failed",
    "malformed",
    "unsendable",
)
"""What became of a copy. ``compared``: answered; ``full``: dropped, because the queue was full; ``unreachable``: no connection;
``slow``: no answer in time; ``busy``: 429 or 503; ``refused``: another 4xx; ``failed``: another 5xx; ``malformed``: the answer is none;
``unsendable``: it refers to audio that the predictor no longer holds, or is larger than the shadow takes (413)."""
ERRORS: Final = ("unreachable", "slow", "refused", "failed", "malformed")
"""The outcomes that count as errors of the shadow; the others are limits of how much is compared."""

MOST_DIALOGUES: Final = 20
"""Differing dialogues that are kept for an hour."""
MOST_ID: Final = 256
"""Characters of a request's name."""
MOST_LABELS: Final = 256
UNIT_BINS: Final = 20
SECONDS_EDGES: Final = np.geomspace(1e-4, 1e2, 61)
"""Bins of latencies, ten a decade, seconds."""
SIDES: Final = ("front", "shadow")
SUMS: Final = ("dialogues", "turns", "agreed", "turns_squared", "agreed_squared", "turns_agreed")
"""Sums over dialogues, from which the interval of a share of turns follows, whose turns are not independent."""


@dataclass(frozen=True)
class DifferingDialogue:
    """A dialogue that the two models answer differently.

    Attributes:
        identity: names its request: a hash of the id, which the log has beside the id.
        turns: its compared turns.
        differing: how many of them have different labels.
        distance: mean total variation distance of the probabilities of its turns, 0 to 1.
    """

    identity: str
    turns: int
    differing: int
    distance: float

    @property
    def rank(self) -> tuple[float, float, str]:
        """Orders dialogues; those that differ most come last."""
        return self.differing / self.turns, self.distance, self.identity


@dataclass
class ShadowCounts:
    """Counts of one comparison.

    Attributes:
        labels: of the predictor in front, ``C``.
        shadow_labels: of the shadow, ``D``.
        pairs: turns by the labels of both, int64 ``[C, D]``.
        sums: :data:`SUMS` by the front's label, and of all turns in the last row, int64 ``[C + 1, 6]``.
        confidence: probability of the predicted label, by side, int64 ``[2, 20]``.
        distance: total variation distance of the probabilities of a turn, int64 ``[20]``.
        seconds: latencies by side in the bins of :data:`SECONDS_EDGES`, int64 ``[2, 60]``.
        outcomes: copies by outcome.
        dialogues: those that differ most, the most different first.
    """

    labels: tuple[str, ...]
    shadow_labels: tuple[str, ...]
    pairs: np.ndarray = field(init=False)
    sums: np.ndarray = field(init=False)
    confidence: np.ndarray = field(init=False)
    distance: np.ndarray = field(init=False)
    seconds: np.ndarray = field(init=False)
    outcomes: dict[str, int] = field(init=False)
    dialogues: list[DifferingDialogue] = field(init=False)

    def __post_init__(self) -> None:
        classes = len(self.labels)
        self.pairs = np.zeros((classes, len(self.shadow_labels)), np.int64)
        self.sums = np.zeros((classes + 1, len(SUMS)), np.int64)
        self.confidence = np.zeros((2, UNIT_BINS), np.int64)
        self.distance = np.zeros(UNIT_BINS, np.int64)
        self.seconds = np.zeros((2, len(SECONDS_EDGES) - 1), np.int64)
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.dialogues = []

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names in files."""
        return {name: getattr(self, name) for name in ("pairs", "sums", "confidence", "distance", "seconds")}

    @property
    def copies(self) -> int:
        """The copies with an outcome."""
        return sum(self.outcomes.values())

    def add(self, other: ShadowCounts) -> None:
        """Add counts with the same labels."""
        for name, array in self.arrays.items():
            array += other.arrays[name]
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        for dialogue in other.dialogues:
            self.keep(dialogue)

    def keep(self, dialogue: DifferingDialogue) -> None:
        """Keep a dialogue if it is one of those that differ most; a later record of the same name replaces the earlier one."""
        if not dialogue.differing:
            return
        others = [one for one in self.dialogues if one.identity != dialogue.identity]
        others.append(dialogue)
        others.sort(key=lambda one: one.rank, reverse=True)
        self.dialogues = others[:MOST_DIALOGUES]

    def forget(self, identity: str) -> None:
        """Drop the record of a dialogue that goes on in another request."""
        self.dialogues = [one for one in self.dialogues if one.identity != identity]

    def snapshot(self) -> ShadowCounts:
        """A copy."""
        copy = ShadowCounts(self.labels, self.shadow_labels)
        copy.add(self)
        return copy


@dataclass
class DialogueTally:
    """What was counted of one dialogue so far, as a live conversation grows.

    Attributes:
        counted: turns of the dialogue that were looked at.
        turns: compared turns by the front's label, and all in the last place, int64 ``[C + 1]``.
        agreed: those to which both give the same label.
        distance: sum of the distances of its turns.
        identity: names its latest request.
    """

    counted: int
    turns: np.ndarray
    agreed: np.ndarray
    distance: float = 0.0
    identity: str = ""


class Comparison:
    """Compares answers of two models.

    Args:
        labels: of the predictor in front.
        shadow_labels: of the shadow.
    """

    def __init__(self, labels: tuple[str, ...], shadow_labels: tuple[str, ...]) -> None:
        self.labels, self.shadow_labels = labels, shadow_labels
        union = list(dict.fromkeys((*labels, *shadow_labels)))
        self._width = len(union)
        self._columns = [union.index(label) for label in labels]
        self._shadow_columns = np.array([union.index(label) for label in shadow_labels])

    def tally(self) -> DialogueTally:
        """The tally of a new dialogue."""
        size = len(self.labels) + 1
        return DialogueTally(0, np.zeros(size, np.int64), np.zeros(size, np.int64))

    def count(
        self,
        counts: ShadowCounts,
        tally: DialogueTally,
        front: np.ndarray,
        shadow: np.ndarray,
        identity: str,
        first: int = 0,
    ) -> None:
        """Count the new turns of a dialogue, those after ``tally.counted``.

        Args:
            counts: receives the counts.
            tally: of the dialogue; updated.
            front: probabilities of all its turns ``[n, C]``; rows of zeros are turns that are context only.
            shadow: those of the shadow ``[n, D]``.
            identity: names the request.
            first: turns of the dialogue before the first of these.
        """
        chosen = np.arange(max(0, tally.counted - first), len(front))
        chosen = chosen[front[chosen].max(axis=1, initial=0) > 0]
        tally.counted = max(tally.counted, first + len(front))
        if not len(chosen):
            return
        ours, theirs = front[chosen], shadow[chosen]
        label, other = ours.argmax(1), theirs.argmax(1)
        agreed = np.array(self._columns)[label] == self._shadow_columns[other]
        wide = np.zeros((2, len(chosen), self._width))
        wide[0][:, self._columns], wide[1][:, self._shadow_columns] = ours, theirs
        distance = np.minimum(np.abs(wide[0] - wide[1]).sum(1) / 2, 1.0)
        np.add.at(counts.pairs, (label, other), 1)
        for side, probabilities in enumerate((ours, theirs)):
            counts.confidence[side] += _unit_counts(probabilities.max(1))
        counts.distance += _unit_counts(distance)
        self._add_sums(counts, tally, label, agreed)
        tally.distance += float(distance.sum())
        turns, same = int(tally.turns[-1]), int(tally.agreed[-1])
        tally.identity = identity[:MOST_ID]
        counts.keep(DifferingDialogue(tally.identity, turns, turns - same, min(1.0, tally.distance / turns)))

    def _add_sums(self, counts: ShadowCounts, tally: DialogueTally, label: np.ndarray, agreed: np.ndarray) -> None:
        size = len(self.labels)
        turns, same = tally.turns.copy(), tally.agreed.copy()
        turns[:-1] += np.bincount(label, minlength=size)
        same[:-1] += np.bincount(label[agreed], minlength=size)
        turns[-1] += len(label)
        same[-1] += agreed.sum()
        before, was = tally.turns, tally.agreed
        changes = (
            (before == 0) & (turns > 0),
            turns - before,
            same - was,
            turns**2 - before**2,
            same**2 - was**2,
            turns * same - before * was,
        )
        for place, change in enumerate(changes):
            counts.sums[:, place] += change
        tally.turns, tally.agreed = turns, same


def _unit_counts(values: np.ndarray) -> np.ndarray:
    places = np.clip((values * UNIT_BINS).astype(np.int64), 0, UNIT_BINS - 1)
    return np.bincount(places, minlength=UNIT_BINS)


def add_seconds(counts: ShadowCounts, front: float, shadow: float) -> None:
    """Count the latencies of one request, seconds."""
    for side, value in enumerate((front, shadow)):
        place = int(np.searchsorted(SECONDS_EDGES, value, side="right")) - 1
        counts.seconds[side, min(max(place, 0), len(SECONDS_EDGES) - 2)] += 1
