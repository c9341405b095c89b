"""One label for each turn from the answers of several annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mistere.labelling.answers import Answers, Place, Problem
from mistere.metrics.agreement import Agreement, agreement_by_label, krippendorff_alpha


@dataclass(frozen=True)
class Consensus:
    """The outcome.

    Attributes:
        labels: the label of each turn on which the annotators agree by majority.
        conflicts: the turns without a majority.
        too_few: turns with fewer answers than demanded.
        agreement: of the annotators, over all turns with two answers or more.
        by_label: the same for each label against all others.
    """

    labels: dict[Place, str]
    conflicts: list[Problem]
    too_few: int
    agreement: Agreement
    by_label: dict[str, Agreement]


def consensus(answers: Answers, labels: Sequence[str], least: int) -> Consensus:
    """The label of each turn: that of more than half of its annotators, those who could not tell included.

    Args:
        answers: of the annotators.
        labels: all labels, in order.
        least: annotators that a turn needs.
    """
    agreed: dict[Place, str] = {}
    conflicts: list[Problem] = []
    too_few = 0
    for place in sorted(answers.given.keys() | answers.abstained.keys()):
        given = answers.given.get(place, {})
        asked = len(given) + answers.abstained.get(place, 0)
        if asked < least:
            too_few += 1
            continue
        label, votes = _most(given.values(), labels)
        if 2 * votes > asked:
            agreed[place] = label
        elif given:
            listed = tuple(sorted(given.values()))
            conflicts.append(Problem("the annotators do not agree", place[0], place[1], listed))
    units = [list(given.values()) for _, given in sorted(answers.given.items())]
    return Consensus(agreed, conflicts, too_few, krippendorff_alpha(units), agreement_by_label(units, labels))


def _most(given: Iterable[str], labels: Sequence[str]) -> tuple[str, int]:
    """The most frequent answer and its number; the first of the labels if several are."""
    counts = Counter(given)
    best = max(labels, key=lambda label: counts[label])
    return best, counts[best]
