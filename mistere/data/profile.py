"""A dataset in numbers that fit on a page, and how far two of them are apart.

A profile is stored with a model, so that later data and the endpoint's traffic can be compared with what it was trained on. Histograms
have fixed edges, so that two profiles are comparable; no utterance can be recovered from a profile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.common.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np

PROFILE_FILE = "data_profile.json"
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


def label_distance(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
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
