"""Whether labels mean the same in two sets of utterances, by the words that go with each.

A label map that is off by one passes every check of form: the labels are declared, each occurs, their shares may be similar.
But utterances labelled 'sad' then have the words of 'happy'. This module compares how well one set's word frequencies by label
explain the other set's utterances under their own labels and under the best exchange of labels. If an exchange explains them
much better, labels were exchanged. The cost is one pass over the vocabulary for each pair of labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LabelWords = Mapping[str, Mapping[str, int]]
"""How often each word occurs, by label."""

FEWEST_WORDS = 300
"""With fewer words on either side, nothing is compared."""
_CHANCE = 60.0
"""Divided by the number of words: the most that chance gains, measured by drawing from sets with correct labels."""
_PRIOR = 200.0
"""Words of the whole set that each label's frequencies are smoothed with."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """How much better the second set is explained when its labels are exchanged.

    Attributes:
        gain: in nats a word; 0 if no exchange is better.
        chance: the gain that chance alone can cause.
        names: the exchanged labels: the name in the second set, and the matching name in the first.
    """

    gain: float
    chance: float
    names: dict[str, str]

    @property
    def detail(self) -> str:
        """The exchange in words."""
        shown = [
            f"utterances labelled '{own}' have the words of '{other}'" for own, other in sorted(self.names.items())[:3]
        ]
        return ", ".join(shown) + (", …" if len(self.names) > 3 else "")


def best_exchange(first: LabelWords, second: LabelWords) -> Exchange | None:
    """The exchange of names that explains the second set best; None if there are too few words.

    The words of turns without a label, under "", are left out.
    """
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    first, second = ({label: counts for label, counts in each.items() if label} for each in (first, second))
    labels = sorted(label for label in first.keys() & second.keys() if first[label] and second[label])
    overall: dict[str, int] = {}
    for counts in first.values():
        for word, count in counts.items():
            overall[word] = overall.get(word, 0) + count
    known = {label: {w: c for w, c in second[label].items() if w in overall} for label in labels}
    words = sum(sum(counts.values()) for counts in known.values())
    total = sum(overall.values())
    if len(labels) < 2 or min(words, total) < FEWEST_WORDS:
        return None
    fit = np.zeros((len(labels), len(labels)))
    for row, name in enumerate(labels):
        own, size = first[name], sum(first[name].values())
        ratio = {
            word: math.log((own.get(word, 0) * total / count + _PRIOR) / (size + _PRIOR))
            for word, count in overall.items()
        }
        for column, other in enumerate(labels):
            fit[row, column] = sum(count * ratio[word] for word, count in known[other].items())
    rows, columns = linear_sum_assignment(-fit)
    gain = float(fit[rows, columns].sum() - np.trace(fit)) / words
    names = {labels[c]: labels[r] for r, c in zip(rows, columns, strict=True) if r != c}
    return Exchange(max(gain, 0.0), _CHANCE / words, names)
