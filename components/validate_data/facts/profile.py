"""The profile of a dataset's facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mistere.data.profile import EDGES, Profile

if TYPE_CHECKING:
    from components.validate_data.facts.dataset_facts import Facts

_MOST_WORDS, _MOST_LABEL_WORDS = 2000, 400


def profile_of(facts: Facts, name: str, labels: Sequence[str]) -> Profile:
    """The profile of a dataset's facts."""
    import numpy as np

    table = facts.utterances
    counts = table["label"].value_counts()
    histograms: dict[str, list[int]] = {}
    for column, (low, high, bins) in EDGES.items():
        values = table[column].to_numpy(dtype=float, na_value=np.nan)
        values = values[np.isfinite(values) & (values > 0 if column == "text_length" else True)]
        if len(values):
            histograms[column] = np.histogram(np.clip(values, low, high), bins=bins, range=(low, high))[0].tolist()
    by_label = _over_splits(facts)
    everything = _total(by_label.values())
    words = {word: count for word, count in _most_frequent(everything, _MOST_WORDS).items() if count > 1}
    return Profile(
        name=name,
        utterances=len(table),
        labels={label: int(counts.get(label, 0)) for label in labels},
        histograms=histograms,
        words=words,
        other_words=sum(everything.values()) - sum(words.values()),
        label_words={label: _most_frequent(by_label.get(label, {}), _MOST_LABEL_WORDS) for label in labels},
    )


def _over_splits(facts: Facts) -> dict[str, dict[str, int]]:
    """How often each word occurs, by label."""
    labels = sorted({label for split in facts.label_words.values() for label in split})
    return {label: _total(split.get(label, {}) for split in facts.label_words.values()) for label in labels}


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for word, count in each.items():
            total[word] = total.get(word, 0) + count
    return total


def _most_frequent(counts: Mapping[str, int], most: int) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most])
