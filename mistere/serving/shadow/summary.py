"""What a comparison says: agreement with intervals, confidence, latency, errors, and a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from mistere.common.counting import counted, percent
from mistere.serving.shadow.figures import ERRORS, SECONDS_EDGES, SIDES, SUMS, UNIT_BINS, ShadowCounts

Verdict = Literal["alike", "different", "undecided"]
MIN_AGREEMENT: Final = 0.7
MAX_ERRORS: Final = 0.01
MIN_TURNS: Final = 200
MIN_DIALOGUES: Final = 20
_NORMAL_95: Final = 1.959964


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval.

    Attributes:
        part: how many.
        of: of how many.
        value: the share; NaN of none.
        low: lower end of the interval.
        high: upper end.
    """

    part: int
    of: int
    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        value = None if math.isnan(self.value) else round(self.value, 6)
        return {
            "part": self.part,
            "of": self.of,
            "share": value,
            "low": round(self.low, 6),
            "high": round(self.high, 6),
        }


def wilson(part: float, of: float, independent: float) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score.

    Args:
        part: how many.
        of: of how many.
        independent: how many independent ones these amount to.
    """
    if of <= 0 or independent <= 0:
        return 0.0, 1.0
    share, z = part / of, _NORMAL_95
    middle = (share + z * z / (2 * independent)) / (1 + z * z / independent)
    half = z / (1 + z * z / independent) * math.sqrt(share * (1 - share) / independent + (z / (2 * independent)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def agreement(sums: np.ndarray) -> Share:
    """The share of turns with equal labels. Turns of one dialogue are not independent, so the interval is widened by how much the
    shares of whole dialogues vary.

    Args:
        sums: a row of :attr:`ShadowCounts.sums`.
    """
    dialogues, turns, agreed, turns2, agreed2, both = (float(sums[SUMS.index(name)]) for name in SUMS)
    if turns <= 0:
        return Share(0, 0, math.nan, 0.0, 1.0)
    share = agreed / turns
    independent = min(turns, dialogues)  # where all agree, or none, their variation says nothing
    spread = agreed2 - 2 * share * both + share**2 * turns2
    if dialogues > 1 and 0 < share < 1:
        variance = dialogues / (dialogues - 1) * max(spread, 0.0) / turns**2
        independent = min(turns, share * (1 - share) / variance) if variance > 0 else turns
    low, high = wilson(agreed, turns, max(independent, 1.0))
    return Share(int(agreed), int(turns), share, low, high)


def share_of_errors(counts: ShadowCounts) -> Share:
    """The share of errors among the copies that the shadow was asked."""
    errors = sum(counts.outcomes[name] for name in ERRORS)
    asked = errors + counts.outcomes["compared"]
    low, high = wilson(errors, asked, asked)
    return Share(errors, asked, errors / asked if asked else math.nan, low, high)


def quantile(counts: np.ndarray, share: float) -> float:
    """A quantile of latencies, seconds, interpolated within its bin; NaN of none."""
    total = counts.sum()
    if not total:
        return math.nan
    cumulative = np.concatenate([[0], counts.cumsum()])
    return float(np.exp(np.interp(share * total, cumulative, np.log(SECONDS_EDGES))))


def mean_of_unit(counts: np.ndarray) -> float:
    """The mean of a histogram over 0 to 1; NaN of none."""
    total = counts.sum()
    return float(np.dot(counts, (np.arange(UNIT_BINS) + 0.5) / UNIT_BINS) / total) if total else math.nan


@dataclass(frozen=True)
class Summary:
    """A comparison.

    Attributes:
        counts: the counts.
        min_agreement: least share of turns with equal labels.
        max_errors: largest share of errors.
    """

    counts: ShadowCounts
    min_agreement: float = MIN_AGREEMENT
    max_errors: float = MAX_ERRORS

    @property
    def agreement(self) -> Share:
        """Over all labels."""
        return agreement(self.counts.sums[-1])

    @property
    def by_label(self) -> dict[str, Share]:
        """By the label of the predictor in front; labels that it never gave are left out."""
        rows = zip(self.counts.labels, self.counts.sums, strict=False)
        return {label: agreement(sums) for label, sums in rows if sums[SUMS.index("turns")]}

    @property
    def errors(self) -> Share:
        """The shadow's."""
        return share_of_errors(self.counts)

    @property
    def dialogues(self) -> int:
        """Compared dialogues."""
        return int(self.counts.sums[-1, SUMS.index("dialogues")])

    @property
    def few(self) -> bool:
        """Whether too little was compared for a verdict on the labels."""
        return self.agreement.of < MIN_TURNS or self.dialogues < MIN_DIALOGUES

    @property
    def verdict(self) -> Verdict:
        """``alike`` or ``different`` where the intervals say so, otherwise ``undecided``."""
        if self.errors.low > self.max_errors or (not self.few and self.agreement.high < self.min_agreement):
            return "different"
        shown = self.agreement.low >= self.min_agreement and self.errors.high <= self.max_errors
        return "alike" if shown and not self.few else "undecided"

    @property
    def reasons(self) -> list[str]:
        """Sentences on why the verdict is as it is."""
        same, errors = self.agreement, self.errors
        sentences = []
        if self.few:
            sentences.append(
                f"Too little was compared for a verdict on the labels: {counted(same.of, 'turn')} of {counted(self.dialogues, 'dialogue')}, "
                f"of at least {MIN_TURNS} and {MIN_DIALOGUES}."
            )
        elif not same.low >= self.min_agreement:
            what = "is below" if same.high < self.min_agreement else "may be below"
            sentences.append(f"The agreement {what} {percent(self.min_agreement)} ({shown_share(same)}).")
        if errors.low > self.max_errors:
            sentences.append(
                f"More than {percent(self.max_errors, 1)} of the copies ended in an error ({shown_share(errors)})."
            )
        elif errors.high > self.max_errors and errors.of:
            sentences.append(
                f"Whether errors are below {percent(self.max_errors, 1)} is not shown yet ({shown_share(errors)})."
            )
        return sentences

    def latencies(self) -> dict[str, dict[str, float | None]]:
        """Quantiles of the latencies in milliseconds, by side."""
        return {
            side: {
                name: None if math.isnan(value := quantile(row, share)) else round(1000 * value, 3)
                for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            }
            for side, row in zip(SIDES, self.counts.seconds, strict=True)
        }

    def confidences(self) -> dict[str, float | None]:
        """The mean probability of the predicted label, by side."""
        means = [mean_of_unit(row) for row in self.counts.confidence]
        return {side: None if math.isnan(mean) else round(mean, 4) for side, mean in zip(SIDES, means, strict=True)}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counts = self.counts
        distance = mean_of_unit(counts.distance)
        return {
            "verdict": self.verdict,
            "reasons": self.reasons,
            "dialogues": self.dialogues,
            "turns": self.agreement.of,
            "agreement": self.agreement.as_dict(),
            "agreement_by_label": {label: share.as_dict() for label, share in self.by_label.items()},
            "labels": {
                "front": list(counts.labels),
                "shadow": list(counts.shadow_labels),
                "turns": counts.pairs.tolist(),
            },
            "confidence": self.confidences(),
            "mean_distance": None if math.isnan(distance) else round(distance, 4),
            "latency_ms": self.latencies(),
            "copies": dict(counts.outcomes),
            "errors": self.errors.as_dict(),
            "differing_dialogues": [
                {
                    "id": one.identity,
                    "turns": one.turns,
                    "differing": one.differing,
                    "distance": round(one.distance, 4),
                }
                for one in counts.dialogues
            ],
        }


def shown_share(share: Share) -> str:
    """``93.1 %, 91.0 to 94.8 %``."""
    if math.isnan(share.value):
        return "none"
    return f"{percent(share.value, 1)}, {100 * share.low:.1f} to {percent(share.high, 1)}"
