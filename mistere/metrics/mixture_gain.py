"""The mixture compared with what it must not be worse than: each of its experts alone, and their plain mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mistere.metrics.classification import Interval

MEAN = "test.gain_over_mean_of_experts"
COVERAGE = "test.gain_coverage"
_EXPERT = "test.gain_over."


@dataclass(frozen=True)
class MixtureGain:
    """Weighted F1 of the mixture minus that of simpler predictions from the same experts, paired.

    Attributes:
        best: the expert over which the mixture gains least.
        over_best: gain over that expert; where it is absent, the mixture's own prediction stands in for it.
        over_mean: gain over the experts with equal weights.
        coverage: of the intervals, for example 0.95.
    """

    best: str
    over_best: Interval
    over_mean: Interval
    coverage: float


def gain_metrics(over_experts: Mapping[str, Interval], over_mean: Interval, coverage: float) -> dict[str, float]:
    """Flat: ``test.gain_over.<expert>`` and ``test.gain_over_mean_of_experts``, each with ``.low`` and ``.high``."""
    flat = {COVERAGE: coverage}
    for name, gain in {**{f"{_EXPERT}{name}": one for name, one in over_experts.items()}, MEAN: over_mean}.items():
        flat |= {name: gain.value, f"{name}.low": gain.low, f"{name}.high": gain.high}
    return flat


def gain_from_metrics(metrics: Mapping[str, float], experts: Sequence[str]) -> MixtureGain | None:
    """The gain from the metrics of :func:`gain_metrics`; None if a figure is missing, as in earlier reports.

    Args:
        metrics: of the test split.
        experts: names of all experts, at least one.
    """

    def interval(name: str) -> Interval | None:
        values = [metrics.get(f"{name}{end}") for end in ("", ".low", ".high")]
        measured = [value for value in values if value is not None]
        return Interval(*measured) if len(measured) == len(values) else None

    gains = {name: gain for name in experts if (gain := interval(f"{_EXPERT}{name}")) is not None}
    over_mean, coverage = interval(MEAN), metrics.get(COVERAGE)
    if not gains or len(gains) < len(experts) or over_mean is None or coverage is None:
        return None
    best = min(gains, key=lambda name: gains[name].value)
    return MixtureGain(best, gains[best], over_mean, coverage)


def gain_sentence(gain: MixtureGain) -> str:
    """The gain in words, without a full stop."""
    best, mean = gain.over_best, gain.over_mean
    return (
        f"The mixture's weighted F1 differs from that of its best expert ({gain.best.replace('_', '-')}) by {best.value:+z.3f} "
        f"(paired {100 * gain.coverage:g} % interval {best.low:+z.3f} to {best.high:+z.3f}) and from that of the plain mean of its "
        f"experts by {mean.value:+z.3f} ({mean.low:+z.3f} to {mean.high:+z.3f})"
    )
