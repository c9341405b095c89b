"""Whether traffic has moved away from its reference, allowing for chance, for dialogues, and for looking at many figures every day.

Each figure's distance is the one that validation uses: Jensen-Shannon between shares, Kolmogorov-Smirnov between histograms. A figure has
**moved** if chance does not explain the difference, and it has **drifted** if the distance is above the figure's bound as well. What
chance explains is tested for the share that moved most, and for the Kolmogorov-Smirnov distance.

- *Many figures*: Holm's step-down over the figures of one look, in which the labels weigh three times as much as any other figure.
- *Many days*: an alpha budget of :data:`WEEKLY_ALPHA` a week, in equal parts for its days. Half of a day's part is for the look at the
  whole day, the other half for its looks while it lasts, which change once an hour: 24 equal parts. So the number of times that
  somebody runs the comparison does not change how often it is wrong.
- *Dialogues*: turns of one dialogue resemble each other, so their number is divided by the design effect 1 + ρ·2·pairs/turns. For each label
  ρ is its own correlation within dialogues, from the counted pairs of traffic and reference together, and at least that of all labels together:
  a rare label has few pairs, and may come in few dialogues. For all other figures ρ = 1, the worst case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from mistere.data.profile import cumulative_distance, label_distance
from mistere.serving.traffic.figures import Counts

Verdict = Literal["steady", "watch", "drifted"]

WEEKLY_ALPHA: Final = 0.01
"""Chance of a false alarm in a week without drift, over all figures, at most."""
MIN_TURNS: Final = 200
"""Turns of a day below which nothing is compared."""
DAY_HOURS: Final = 24
_WEEK_DAYS: Final = 7
BOUNDS: Final[Mapping[str, float]] = {
    "label": 0.05,
    "confidence": 0.10,
    "weight": 0.15,
    "modality": 0.15,
    "script": 0.15,
    "seconds": 0.15,
    "text_length": 0.15,
    "rms_dbfs": 0.15,
}
"""Distances (0..1) that are no drift, however certain. A label whose share goes from 45 % to 35 % is a distance of 0.09."""
WORDS: Final[Mapping[str, str]] = {
    "label": "shares of the predicted labels",
    "confidence": "probability of the predicted label",
    "weight": "weight of the expert",
    "modality": "share of the turns with the modality",
    "script": "scripts of the texts",
    "seconds": "durations of the recordings",
    "text_length": "lengths of the texts",
    "rms_dbfs": "levels of the recordings",
}
_WEIGHTS: Final[Mapping[str, float]] = {"label": 3.0}
"""The parts of a look's budget, relative to 1: what the model answers matters most, and is hardest to tell from chance."""
_SHARES: Final = ("label", "script")
_KEYED: Final = ("weight",)
_UNITS: Final[Mapping[str, str]] = {"seconds": " s", "text_length": " characters", "rms_dbfs": " dBFS"}
_HISTOGRAMS: Final = ("confidence", "seconds", "text_length", "rms_dbfs")


@dataclass(frozen=True)
class Measure:
    """One figure of one look.

    Attributes:
        figure: its name.
        key: its key, for a figure that has one per expert or modality.
        distance: from the reference, 0 to 1.
        bound: distance from which on it has drifted.
        probability: of such a distance by chance.
        detail: what differs most, in words.
        corrected: the probability for the figures of one look together.
        moved: whether chance does not explain the distance.
    """

    figure: str
    key: str
    distance: float
    bound: float
    probability: float
    detail: str = ""
    corrected: float = 1.0
    moved: bool = False

    @property
    def drifted(self) -> bool:
        """Whether it has moved by more than its bound."""
        return self.moved and self.distance > self.bound

    @property
    def name(self) -> str:
        """The figure in words."""
        if (self.figure, self.key) == ("modality", "none"):
            return "share of the turns without any modality"
        return f"{WORDS[self.figure]} {self.key.replace('_', '-')}" if self.key else WORDS[self.figure]


@dataclass(frozen=True)
class Look:
    """One day, or the hours of today so far.

    Attributes:
        day: days since 1970, in UTC.
        whole: whether the day is over.
        turns: new turns of the day.
        measures: its figures; none below :data:`MIN_TURNS`.
    """

    day: int
    whole: bool
    turns: int
    measures: list[Measure] = field(default_factory=list)

    @property
    def level(self) -> float:
        """The probability by chance, corrected for all figures of the look, up to which a figure has moved."""
        return day_alpha(self.whole)

    @property
    def moved(self) -> list[Measure]:
        """The figures that moved, the most distant first, relative to their bounds."""
        return sorted((one for one in self.measures if one.moved), key=lambda one: -one.distance / one.bound)

    @property
    def drifted(self) -> list[Measure]:
        """The figures that drifted."""
        return [one for one in self.moved if one.drifted]


@dataclass(frozen=True)
class Comparison:
    """The looks at a window.

    Attributes:
        looks: a look for each day with traffic, in order.
    """

    looks: list[Look]

    @property
    def latest(self) -> Look | None:
        """The last look with enough traffic to compare."""
        return next((look for look in reversed(self.looks) if look.measures), None)

    @property
    def verdict(self) -> Verdict:
        """``drifted`` if a figure of the latest look drifted; ``watch`` if one moved, or had drifted before; else ``steady``."""
        if self.latest is None:
            return "steady"
        if self.latest.drifted:
            return "drifted"
        return "watch" if self.latest.moved or any(look.drifted for look in self.looks) else "steady"


def compare_traffic(hours: Mapping[int, Counts], reference: Counts, now_hour: int) -> Comparison:
    """Compare each day with the reference.

    Args:
        hours: the traffic by hour since 1970.
        reference: of the bundle.
        now_hour: the current hour; its day is not over.
    """
    days: dict[int, Counts] = {}
    for hour, counts in sorted(hours.items()):
        day = hour // DAY_HOURS
        days[day] = days[day] + counts if day in days else counts
    return Comparison([_look(day, counts, reference, now_hour) for day, counts in days.items()])


def day_alpha(whole: bool) -> float:
    """The part of the budget of one look at a day."""
    day = WEEKLY_ALPHA / _WEEK_DAYS
    return day / 2 if whole else day / 2 / DAY_HOURS


def _look(day: int, counts: Counts, reference: Counts, now_hour: int) -> Look:
    whole = now_hour // DAY_HOURS > day
    turns = counts.total("turns")
    measures = measured(counts, reference) if turns >= MIN_TURNS else []
    return Look(day, whole, turns, holm(measures, day_alpha(whole)))


def holm(measures: Sequence[Measure], alpha: float) -> list[Measure]:
    """The measures with their probabilities corrected by Holm's weighted step-down procedure, and whether they moved.

    Args:
        measures: of one look.
        alpha: the part of the budget of the look.
    """
    weights = [_WEIGHTS.get(one.figure, 1.0) for one in measures]
    order = sorted(range(len(measures)), key=lambda index: measures[index].probability / weights[index])
    corrected, left, result = 0.0, sum(weights), list(measures)
    for index in order:
        corrected = max(corrected, min(1.0, left / weights[index] * measures[index].probability))
        result[index] = replace(measures[index], corrected=corrected, moved=corrected <= alpha)
        left -= weights[index]
    return result


def measured(counts: Counts, reference: Counts) -> list[Measure]:
    """The distance of every figure that both have, with its probability by chance."""
    own = _most_effect(counts)
    other = (
        _most_effect(reference) if reference.total("turns") else own
    )  # a bundle without predictions does not say how long dialogues are
    correlations = _label_correlations(counts, reference)
    of_labels = 1 + correlations * (own - 1), 1 + correlations * (other - 1)
    result: list[Measure] = []
    for name in _SHARES:
        effects = of_labels if name == "label" else (own, other)
        result += _share_measure(name, "", counts.by_key(name), reference.by_key(name), *effects)
    turns, before = counts.total("turns"), reference.total("turns")
    for key in counts.figures.by_name["modality"].keys:
        one, two = counts.by_key("modality")[key], reference.by_key("modality")[key]
        shares = {key: one, "": turns - one}, {key: two, "": before - two}
        result += _share_measure("modality", key, *shares, own, other)
    for name in (*_HISTOGRAMS, *_KEYED):
        for row, key in enumerate(counts.figures.by_name[name].keys):
            result += _histogram_measure(name, key, counts, reference, row, own, other)
    return result


def _most_effect(counts: Counts) -> float:
    """By what the number of turns is divided at most: if the turns of a dialogue were one."""
    return 1.0 + 2.0 * counts.total("pairs") / max(1, counts.total("turns"))


def _label_correlations(counts: Counts, reference: Counts) -> np.ndarray:
    """The correlation of each label within dialogues ``[C]``, 0 to 1; 1 if no pairs were counted by label.

    It is the mean product of the deviations of both turns of a pair from the label's share, divided by the variance of the label. Traffic
    and reference each deviate from shares of their own, so that drift is not taken for correlation.
    """
    turns = np.zeros(len(counts.figures.labels))
    products, pairs, whole = turns.copy(), 0, 0
    for each in (counts, reference):
        of_label, (_, one, both) = each.table("label")[:, 0], each.table("label_pairs").T
        shares = of_label / max(1, of_label.sum())
        own_pairs = int(each.table("label_pairs")[0].sum())
        products += both - shares * (one + 2 * both) + shares**2 * own_pairs
        turns, pairs, whole = turns + of_label, pairs + own_pairs, whole + int(of_label.sum())
    if not pairs:
        return np.ones_like(turns)
    variances = turns / max(1, whole) * (1 - turns / max(1, whole))
    least = products.sum() / max(variances.sum() * pairs, 1e-9)
    return np.clip(products / np.maximum(variances * pairs, 1e-9), max(0.0, least), 1.0)


def _share_measure(
    figure: str,
    key: str,
    now: Mapping[str, int],
    before: Mapping[str, int],
    effect: float | np.ndarray,
    before_effect: float | np.ndarray,
) -> list[Measure]:
    n, m = sum(now.values()), sum(before.values())
    if not n or not m:
        return []
    distance, _ = label_distance(now, before)
    if sum(1 for name in now if now[name] or before[name]) < 2:
        return []
    probability = _share_probability(now, before, n / effect, m / before_effect)
    moved = key or max(now, key=lambda name: abs(now[name] / n - before[name] / m))
    detail = f"{moved}: {100 * before[moved] / m:.1f} % before, {100 * now[moved] / n:.1f} % now"
    return [Measure(figure, key, distance, BOUNDS[figure], probability, detail=detail)]


def _share_probability(
    now: Mapping[str, int], before: Mapping[str, int], n: float | np.ndarray, m: float | np.ndarray
) -> float:
    """The probability that chance alone moves any share as far as the one that moved most, in units of its standard error.

    The arcsine of a share's root has the standard error 1/(2√n) whatever the share is, also for few turns if 3/8 is added to the number with
    the key and 3/4 to that of all (Anscombe, 1948). Bonferroni's correction is for the shares.

    Args:
        now: counts of the traffic.
        before: counts of the reference.
        n: effective number of the traffic's turns, of all shares or of each one.
        m: effective number of the reference's turns.
    """
    from scipy.special import erfc

    one, two = (np.fromiter(counts.values(), float) for counts in (now, before))
    used = one + two > 0
    first, second = _angles(one / one.sum(), n), _angles(two / two.sum(), m)
    sizes = (n + 0.5) * (m + 0.5) / (n + m + 1)
    gaps = (np.abs(first - second) * np.sqrt(sizes))[used]
    return min(1.0, len(gaps) * float(erfc(gaps.max() / np.sqrt(2))))


def _angles(shares: np.ndarray, size: float | np.ndarray) -> np.ndarray:
    return 2 * np.arcsin(np.sqrt((shares * size + 0.375) / (size + 0.75)))


def _histogram_measure(
    figure: str, key: str, counts: Counts, reference: Counts, row: int, effect: float, before_effect: float
) -> list[Measure]:
    now, before = counts.table(figure)[row], reference.table(figure)[row]
    n, m = int(now.sum()), int(before.sum())
    if not n or not m:
        return []
    distance, _ = cumulative_distance(now.tolist(), before.tolist())
    probability = kolmogorov(distance, n / effect, m / before_effect)
    edges = counts.figures.by_name[figure].edges
    middles = (edges[1:] + edges[:-1]) / 2
    means = [
        f"{float(np.dot(row, middles)) / size:.2f}{_UNITS.get(figure, '')}" for row, size in ((before, m), (now, n))
    ]
    detail = f"mean {means[0]} before, {means[1]} now"
    return [Measure(figure, key, distance, BOUNDS[figure], probability, detail=detail)]


def kolmogorov(distance: float, n: float, m: float) -> float:
    """The probability of a Kolmogorov-Smirnov distance of two samples by chance; bins make it smaller than it says."""
    from scipy.special import kolmogorov as survival

    return float(survival(distance * np.sqrt(n * m / (n + m))))
