"""Whether a candidate's live answers hold up against those of the deployed version in the same window.

Five figures are compared: the shares of errors, of refused requests and of requests whose client left before the answer, the 99th
percentile of the time, and the shares of the predicted labels. The first three count at once; the others only if both have answered
enough requests, and if chance does not explain the difference.
"""

from __future__ import annotations

import math
from typing import Final

from mistere.common.counting import percent
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
_NOTHING: Final = LiveFigures()


def error_problem(
    own: LiveFigures,
    deployed: LiveFigures,
    config: CanaryConfig,
    earlier: LiveFigures = _NOTHING,
    least: int = _LEAST_ERRORS,
) -> str:
    """Why the candidate has too many errors, or refuses or loses too many requests, as part of a sentence; empty if it has not.

    Args:
        own: the candidate's figures.
        deployed: those of the deployed version in the same window: trouble that hits both is no fault of the candidate.
        config: the bounds.
        earlier: those of the deployed version in an earlier window, for one in which it gets hardly any requests, or none.
        least: that many cases of the deployed version in the same window excuse the candidate, however few its requests are.
    """

    def compared(kind: str) -> LiveFigures:
        """The figures that the candidate must not be worse than.

        A handful of requests, such as the rest of those that a version had before the step, says nothing unless they had the same trouble.
        """
        if deployed.requests >= config.min_requests or not earlier.requests:
            return deployed
        excused = getattr(deployed, kind) >= least and not _are_apart(kind, own, deployed, config)
        return deployed if excused else earlier

    bound = f"(deployment.canary.max_errors={config.max_errors:g})"
    other = compared("errors")
    if _is_worse("errors", own, other, config):
        return f"{percent(own.error_share, 1)} of its {own.requests} requests ended in an error, {percent(other.error_share, 1)} of the deployed version's {bound}"
    other = compared("refused")
    if _is_worse("refused", own, other, config):
        return (
            f"it refused {percent(own.refused / own.requests, 1)} of its {own.requests} requests, the deployed version "
            f"{percent(other.refused / other.requests, 1)} {bound}"
        )
    other = compared("left")
    if _is_worse("left", own, other, config):
        return (
            f"the clients of {percent(own.left / own.requests, 1)} of its {own.requests} requests left before the answer, of the deployed "
            f"version's {percent(other.left / other.requests, 1)} {bound}"
        )
    return ""


def _is_worse(kind: str, own: LiveFigures, other: LiveFigures, config: CanaryConfig) -> bool:
    """Whether a share of the candidate's requests is too large: ``errors``, ``refused`` or ``left``.

    Of the last two, which depend on the clients, the intervals of both versions must be apart.
    """
    if getattr(own, kind) < _LEAST_ERRORS:
        return False
    if kind == "errors":
        return own.error_share > other.error_share + config.max_errors
    return _are_apart(kind, own, other, config)


def _are_apart(kind: str, own: LiveFigures, other: LiveFigures, config: CanaryConfig) -> bool:
    """Whether the 95 % interval of the candidate's share lies above the other version's by more than the bound."""
    least = wilson(getattr(own, kind), own.requests, own.requests)[0]
    most = wilson(getattr(other, kind), other.requests, other.requests)[1]
    return least > most + config.max_errors


def problem(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig, earlier: LiveFigures = _NOTHING) -> str:
    """Why the candidate goes back after a window, as part of a sentence; empty if it does not. Arguments as in :func:`error_problem`."""
    if found := error_problem(own, deployed, config, earlier):
        return found
    reference = reference_after(deployed, earlier, config)
    if not comparable(own, reference, config):
        return ""
    if not own.answered and _answers_more(reference, own):
        return f"it answered none of its {own.requests} requests"
    if not _enough_answers(own, reference, config):
        return ""
    return _slow(own, reference, config) or _labels(own, reference, config)


def reference_after(deployed: LiveFigures, earlier: LiveFigures, config: CanaryConfig) -> LiveFigures:
    """The deployed version's figures that time and labels are compared with: the latest ones with enough answers.

    Args:
        deployed: of a window.
        earlier: those before it.
        config: the bounds.
    """
    if not deployed.requests:
        return earlier
    return deployed if deployed.answered >= config.min_requests or earlier.answered < config.min_requests else earlier


def comparable(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> bool:
    """Whether both have got enough requests, whatever their end: a model that answers none must not pass for lack of answers."""
    return min(own.requests, deployed.requests) >= config.min_requests


def _answers_more(one: LiveFigures, other: LiveFigures) -> bool:
    least, most = (wilson(figures.answered, figures.requests, figures.requests) for figures in (one, other))
    return least[0] > most[1]


def _enough_answers(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> bool:
    return min(own.answered, deployed.answered) >= config.min_requests


def summary(share: int, own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """A passed window in words."""
    if not own.requests:
        return f"{share} %: no requests"
    text = f"{share} %: {own.requests} requests, {percent(own.error_share, 1)} errors"
    if not comparable(own, deployed, config):
        return f"{text}, too few for a comparison"
    if not _enough_answers(own, deployed, config):
        return (
            f"{text}, {own.answered} answered and {deployed.answered} by the deployed version, too few for a comparison"
        )
    times = " instead of ".join(f"{1000 * one.percentile(_PERCENTILE):.0f}" for one in (own, deployed))
    return f"{text}, 99th percentile {times} ms, labels moved by {label_distance(own.labels, deployed.labels)[0]:.2f}"


def _slow(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """A percentile that is too long, where more answers than chance explains are longer than it may be."""
    before, now = deployed.percentile(_PERCENTILE), own.percentile(_PERCENTILE)
    limit, answers = config.max_slowdown * before, sum(own.seconds.values())
    if math.isnan(limit) or math.isnan(now):
        return ""
    if limit >= own.longest_bound:
        return _beyond_the_buckets(own, deployed, config)
    if now <= limit:
        return ""
    if wilson(own.slower_than(limit), answers, answers)[0] <= 1 - _PERCENTILE:
        return ""
    return (
        f"the 99th percentile of its time is {1000 * now:.0f} ms, that of the deployed version {1000 * before:.0f} ms "
        f"(deployment.canary.max_slowdown={config.max_slowdown:g})"
    )


def _beyond_the_buckets(own: LiveFigures, deployed: LiveFigures, config: CanaryConfig) -> str:
    """Too many answers above the longest bound, where the limit lies above it too: only their shares can be compared."""
    bound = own.longest_bound
    answers, before = sum(own.seconds.values()), sum(deployed.seconds.values())
    longer, longer_before = own.slower_than(bound), deployed.slower_than(bound)
    most = wilson(longer_before, before, before)[1]
    if wilson(longer, answers, answers)[0] <= max(1 - _PERCENTILE, most):
        return ""
    return (
        f"{percent(longer / answers, 1)} of its answers took longer than {bound:g} s, {percent(longer_before / before, 1)} of the deployed version's "
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
        f"its labels are not those of the deployed version: {most} is {percent(shares[most][0])} instead of {percent(shares[most][1])}, a distance of "
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
