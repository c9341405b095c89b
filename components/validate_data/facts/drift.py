"""How far a dataset is from the one that the champion was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.validate_data.facts.label_swap import best_exchange
from mistere.common.counting import percent
from mistere.data.profile import Profile, cumulative_distance, label_distance

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Drift:
    """One measure.

    Attributes:
        measure: what is compared.
        distance: 0 (alike) to 1.
        bound: what is allowed: the setting, or the distance that chance alone causes between samples of these sizes if
            that is larger.
        what: the measure in words.
        detail: what differs, in words; empty if unknown.
    """

    measure: str
    distance: float
    bound: float
    what: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftBounds:
    """What is allowed, by measure."""

    labels: float
    label_meaning: float
    duration: float
    text_length: float
    level: float
    vocabulary: float


def drifts(now: Profile, before: Profile, bounds: DriftBounds) -> list[Drift]:
    """Every measure that both datasets have.

    Args:
        now: the dataset under validation.
        before: the champion's dataset.
        bounds: what is allowed.
    """
    result: list[Drift] = []
    odd = sorted(now.labels.keys() ^ before.labels.keys())
    named = ", ".join(f"{label!r} {'is new' if label in now.labels else 'is gone'}" for label in odd[:5])
    result.append(Drift("label_set", float(len(odd)), 0.0, "the set of labels", named))
    distance, chance = label_distance(now.labels, before.labels)
    result.append(
        Drift("labels", distance, max(bounds.labels, 3 * chance), "the shares of the labels", _moved(now, before))
    )
    exchange = best_exchange(before.label_words, now.label_words)
    if exchange:
        result.append(
            Drift(
                "label_meaning",
                exchange.gain,
                max(bounds.label_meaning, exchange.chance),
                "what the labels mean",
                exchange.detail,
            )
        )
    for measure, column, bound, what in (
        ("duration", "seconds", bounds.duration, "the durations of the recordings"),
        ("text_length", "text_length", bounds.text_length, "the lengths of the transcripts"),
        ("level", "rms_dbfs", bounds.level, "the levels of the recordings"),
    ):
        if column in now.histograms and column in before.histograms:
            distance, chance = cumulative_distance(now.histograms[column], before.histograms[column])
            result.append(Drift(measure, distance, max(bound, chance), what))
    if now.words and before.words:
        distance, chance = label_distance(_words(now), _words(before))
        result.append(
            Drift(
                "vocabulary",
                distance,
                max(bounds.vocabulary, 2 * chance),
                "the words",
                _new_words(now, before),
            )
        )
    return result


def table(measures: list[Drift]) -> pd.DataFrame:
    """The measures as a table, one row each."""
    import pandas as pd

    rows = [(drift.measure, drift.what, drift.distance, drift.bound, drift.detail) for drift in measures]
    return pd.DataFrame(rows, columns=["measure", "what", "distance", "bound", "detail"])


def _words(profile: Profile) -> dict[str, int]:
    return {**profile.words, "": profile.other_words}


def _moved(now: Profile, before: Profile) -> str:
    """The label whose share changed most, in words."""
    sizes = [max(1, sum(profile.labels.values())) for profile in (now, before)]
    shares = {
        label: (before.labels.get(label, 0) / sizes[1], now.labels.get(label, 0) / sizes[0])
        for label in now.labels.keys() | before.labels.keys()
    }
    if not shares:
        return ""
    label = max(sorted(shares), key=lambda name: abs(shares[name][0] - shares[name][1]))
    return f"{label!r} went from {percent(shares[label][0])} to {percent(shares[label][1])}"


def _new_words(now: Profile, before: Profile) -> str:
    new = [word for word in now.words if word not in before.words][:3]
    return "new are " + ", ".join(f"{word!r}" for word in new) if new else ""
