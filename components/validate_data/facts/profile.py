"""A dataset in numbers that fit on a page, stored with a model so that later data can be compared.

Histograms have fixed edges, so that two profiles are comparable; no utterance can be recovered from a profile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.common.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np

    from components.validate_data.facts.dataset_facts import Facts

PROFILE_FILE = "data_profile.json"
_MOST_WORDS, _MOST_LABEL_WORDS = 2000, 400
EDGES: dict[str, tuple[float, float, int]] = {
    "seconds": (0.0, 30.0, 120),
    "text_length": (0.0, 400.0, 200),
    "rms_dbfs": (-90.0, 0.0, 90),
}
"""Lower edge, upper edge and bins of each histogram; values outside are counted in the outermost bin."""


class Profile(BaseModel):
    """A dataset in numbers.

    Attributes:
        name: the dataset's name.
        utterances: number of utterances.
        labels: utterances of each label, in the declared order.
        histograms: counts of utterances by fact, on :data:`EDGES`; only of facts that occur.
        words: the most frequent words; only those that occur more than once.
        other_words: occurrences of all others.
        label_words: the most frequent words of each label.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    utterances: int
    labels: dict[str, int]
    histograms: dict[str, list[int]]
    words: dict[str, int]
    other_words: int
    label_words: dict[str, dict[str, int]] = {}


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


def dump_profile(profile: Profile, path: Path) -> None:
    """Write a profile; deterministic."""
    path.write_text(json.dumps(profile.model_dump(), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def load_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ArtifactError: the file is not a valid profile.
    """
    try:
        return Profile.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not a valid data profile: the bundle that contains it is damaged; download or register the model again."
        ) from error


def label_distance(one: Mapping[str, int], other: Mapping[str, int]) -> tuple[float, float]:
    """Jensen-Shannon distance (base 2, 0..1) of two distributions given as counts, and how large chance alone makes it.

    The second number is what two samples of these sizes from one distribution differ by on average: for small samples and
    many kinds it is far from 0 (the divergence is then about (kinds − 1) / (8 ln 2) · (1/n + 1/m)).
    """
    import numpy as np

    kinds = sorted(one.keys() | other.keys())
    a, b = (np.array([counts.get(kind, 0) for kind in kinds], float) for counts in (one, other))
    n, m = a.sum(), b.sum()
    if not n or not m:
        return 0.0, 0.0
    a, b = a / n, b / m
    middle = (a + b) / 2
    divergence = (_entropy_gap(a, middle) + _entropy_gap(b, middle)) / 2
    used = int((middle > 0).sum())
    chance = max(0, used - 1) / (8 * np.log(2)) * (1 / n + 1 / m)
    return float(np.sqrt(max(divergence, 0.0))), float(np.sqrt(chance))


def _entropy_gap(a: np.ndarray, middle: np.ndarray) -> float:
    import numpy as np

    used = a > 0
    return float((a[used] * np.log2(a[used] / middle[used])).sum())


def cumulative_distance(one: Sequence[int], other: Sequence[int]) -> tuple[float, float]:
    """Largest difference (0..1) of two cumulative histograms (Kolmogorov-Smirnov), and its 1 % critical value."""
    import numpy as np

    a, b = np.asarray(one, float), np.asarray(other, float)
    n, m = a.sum(), b.sum()
    if not n or not m:
        return 0.0, 0.0
    gap = float(np.abs(a.cumsum() / n - b.cumsum() / m).max())
    return gap, float(1.63 * np.sqrt((n + m) / (n * m)))
