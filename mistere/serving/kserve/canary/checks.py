"""Whether a candidate's live answers hold up against those of the deployed version in the same window.

Four figures are compared: the shares of errors and of refused requests, the 99th percentile of the time, and the shares of the
predicted labels. The first two count at once; the others only if both have answered enough requests, and if chance does not explain
the difference.
"""

from __future__ import annotations

import math
from typing import Final

from mistere.config.canary import CanaryConfig
from mistere.data.profile import label_distance
from mistere.serving.kserve.canary.live_figures import LiveFigures
from mistere.serving.shadow.summary import wilson

_LEAST_ERRORS: Final = 3
"""One error of a new pod is no reason to go back."""
_PERCENTILE: Final = 0.99
_ALPHA: Final = 0.001
"""Probability of such a difference between the labels by chance, below which it is none."""
_OVERDISPERSION: Final = 2.0
"""How many answers amount to one that is independent of the others. A Gateway draws each request anew, but a stream of audio sends all
turns to one version."""


def error_problem(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """Why the candidate has too many errors or refuses too much, as part of a sentence; empty if it has not.

    Args:
        own: the candidate's figures.
        deployed: those of the deployed version.
        config: the bounds.
    """
    if own.errors < _LEAST_ERRORS or own.error_share <= deployed.error_share + config.max_errors:
        return _refusals(own, deployed, config)
    return (
        f"{own.error_share:.1%} of its {own.requests} requests ended in an error, {deployed.error_share:.1%} of the deployed version's "
        f"(deployment.canary.max_errors={config.max_errors:g})"
    )


def _refusals(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """A share of refused requests that is too large. It depends on the clients, so the intervals of both must be apart."""
    if own.refused < _LEAST_ERRORS:
        return ""
    least = wilson(own.refused, own.requests, own.requests)[0]
    most = wilson(deployed.refused, deployed.requests, deployed.requests)[1]
    if least <= most + config.max_errors:
        return ""
    return (
        f"it refused {own.refused / own.requests:.1%} of its {own.requests} requests, the deployed version "
        f"{deployed.refused / deployed.requests:.1%} (deployment.canary.max_errors={config.max_errors:g})"
    )


def problem(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """Why the candidate goes back after a window, as part of a sentence; empty if it does not. Arguments as in :func:`error_problem`."""
    if found := error_problem(own, deployed, config):
        return found
    if not comparable(own, deployed, config):
        return ""
    return _slow(own, deployed, config) or _labels(own, deployed, config)


def comparable(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> bool:
    """Whether both have answered enough requests."""
    return min(own.answered, deployed.answered) >= config.min_requests


def summary(share: int, own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """A passed window in words."""
    if not own.requests:
        return f"{share} %: no requests"
    text = f"{share} %: {own.requests} requests, {own.error_share:.1%} errors"
    if not comparable(own, deployed, config):
        return f"{text}, too few for a comparison"
    times = " instead of ".join(f"{1000 * one.percentile(_PERCENTILE):.0f}" for one in (own, deployed))
    return f"{text}, 99th percentile {times} ms, labels moved by {label_distance(own.labels, deployed.labels)[0]:.2f}"


def _slow(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """A percentile that is too long, where more answers than chance explains are longer than it may be."""
    before, now = deployed.percentile(_PERCENTILE), own.percentile(_PERCENTILE)
    limit, answers = config.max_slowdown * before, sum(own.seconds.values())
    if math.isnan(limit) or math.isnan(now) or now <= limit:
        return ""
    if wilson(own.slower_than(limit), answers, answers)[0] <= 1 - _PERCENTILE:
        return ""
    return (
        f"the 99th percentile of its time is {1000 * now:.0f} ms, that of the deployed version {1000 * before:.0f} ms "
        f"(deployment.canary.max_slowdown={config.max_slowdown:g})"
    )


def _labels(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """Labels that have moved too far. Dialogues of one request resemble each other: at most answers count as independent."""
    distance, _ = label_distance(own.labels, deployed.labels)
    if distance <= config.max_label_shift or _by_chance(distance, own, deployed) > _ALPHA:
        return ""
    n, m = (sum(one.labels.values()) for one in (own, deployed))
    kinds = own.labels.keys() | deployed.labels.keys()
    shares = {kind: (own.labels.get(kind, 0) / n, deployed.labels.get(kind, 0) / m) for kind in kinds}
    most = max(sorted(kinds), key=lambda kind: abs(shares[kind][0] - shares[kind][1]))
    return (
        f"its labels are not those of the deployed version: {most} is {shares[most][0]:.0%} instead of {shares[most][1]:.0%}, a distance of "
        f"{distance:.2f} (deployment.canary.max_label_shift={config.max_label_shift:g})"
    )


def _by_chance(distance: float, own: LiveFigures, deployed: LiveFigures) -> float:
    """The probability of such a distance by chance: the divergence times 8·ln 2/(1/n + 1/m) is about chi-square."""
    from scipy.special import chdtrc

    freedom = len(own.labels.keys() | deployed.labels.keys()) - 1
    n, m = (min(one.answered, sum(one.labels.values())) / _OVERDISPERSION for one in (own, deployed))
    if not n or not m:  # a predictor of an earlier release counts no labels of last utterances
        return 1.0
    scale = 8 * math.log(2) / (1 / n + 1 / m)
    return float(chdtrc(freedom, distance**2 * scale)) if freedom > 0 else 1.0
