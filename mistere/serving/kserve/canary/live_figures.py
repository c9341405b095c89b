"""What the pods of one revision have answered since a moment, from the differences of their Prometheus counters.

Every pod counts since its own start, and a pod that restarts begins at 0 again. So each reading adds what a pod has counted since the
reading before, as Prometheus' ``increase`` does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from mistere.common.errors import MistereError
from mistere.serving.kserve.revision import Revision, is_ready

_REQUESTS: Final = "mistere_requests_total"
_SECONDS: Final = "request_predict_seconds_bucket"
"""KServe's histogram of the time from a parsed request to its answer, so that a slow client counts for nothing. The predictor observes
answered requests only: a refusal is fast, and a stream's interim answer is none."""
_LABELS: Final = "mistere_last_label_total"
"""Not the labels of all utterances: a conversation that is sent again as it grows would repeat its first ones."""
_OVERLOADED: Final = 429
_FAILURES: Final = frozenset({"INTERNAL", "UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "DATA_LOSS"})
"""gRPC codes that are the server's fault."""
_PASSED: Final = frozenset({"200", "OK"})
_LEFT: Final = frozenset({"499", "CANCELLED"})
"""The client has left before the answer, as it does if none comes."""
_AUDIO_MISSING: Final = frozenset({"409", "FAILED_PRECONDITION"})
"""Neither answered nor refused for what the request says: audio that this pod does not hold yet."""

Sample = tuple[str, str, str]
"""Name of a metric, and two of its labels."""


@dataclass(frozen=True)
class LiveFigures:
    """Counts of a window.

    Attributes:
        requests: all requests, whatever their end.
        answered: those with an answer of the model.
        errors: those that ended in an error of the server, or were refused for overload.
        refused: those that were refused for what they say, such as an unknown field.
        left: those whose client left before the answer.
        seconds: answers by the upper bound of their bucket, seconds; not cumulative.
        labels: answered dialogues by the predicted label of their last utterance; none for one that ends with a context turn.
    """

    requests: int = 0
    answered: int = 0
    errors: int = 0
    refused: int = 0
    left: int = 0
    seconds: Mapping[float, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def error_share(self) -> float:
        """The share of errors, 0 to 1."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def longest_bound(self) -> float:
        """The largest finite bound of the buckets, seconds, above which times are not told apart; infinite without buckets."""
        return max((bound for bound in self.seconds if math.isfinite(bound)), default=math.inf)

    def percentile(self, share: float) -> float:
        """A percentile of the time of an answer, seconds, interpolated within its bucket; NaN of none.

        One above the longest bound counts as that bound.
        """
        left, lower = share * sum(self.seconds.values()), 0.0
        if not left:
            return math.nan
        for upper, count in sorted(self.seconds.items()):
            if count and left <= count:
                return lower if math.isinf(upper) else lower + (upper - lower) * left / count
            left -= count
            lower = upper if not math.isinf(upper) else lower
        return lower

    def slower_than(self, seconds: float) -> float:
        """How many answers took longer, interpolated within the bucket."""
        slower, lower = 0.0, 0.0
        for upper, count in sorted(self.seconds.items()):
            if lower >= seconds:
                slower += count
            elif upper > seconds and not math.isinf(upper):
                slower += count * (upper - seconds) / (upper - lower)
            lower = upper
        return slower


class LiveCounter:
    """Sums up what the pods of a revision answer.

    Args:
        revision: the revision.
    """

    def __init__(self, revision: Revision) -> None:
        self._revision = revision
        self._last: dict[str, Mapping[Sample, float]] = {}
        self._present: set[str] | None = None
        self._sums: Counter[Sample] = Counter()

    def read(self, *, required: bool = True) -> None:
        """Read the counters of all ready pods; the first reading is where counting begins.

        Of a pod that was there then, but could not be read, counting begins where it is first read; of a later one, at 0.
        A pod that ends between two readings takes its last seconds with it.

        Args:
            required: False for a reading that may fail, because another follows.

        Raises:
            MistereError: no ready pod can be read, and the reading is required.
        """
        living = self._revision.pods()[0]
        pods = [pod for pod in living if is_ready(pod)]
        if self._present is None:
            self._present = {str(pod["metadata"]["name"]) for pod in living}
        failure: MistereError | None = None
        answered = 0
        for pod in pods:
            name = str(pod["metadata"]["name"])
            try:
                now = samples(self._revision.metrics(pod))
            except MistereError as error:
                failure = error
                continue
            answered += 1
            before = self._last.get(name, now if name in self._present else {})
            self._last[name] = now
            for sample, value in now.items():
                grown = value - before.get(sample, 0.0)
                self._sums[sample] += grown if grown >= 0 else value  # type: ignore[assignment]
        if failure is not None and not answered and required:
            raise failure

    def figures(self) -> LiveFigures:
        """What they have answered since the first reading."""
        cumulative: Counter[float] = Counter()
        labels: Counter[str] = Counter()
        requests = answered = errors = refused = left = 0
        for (name, one, other), value in self._sums.items():
            count = round(value)
            if name == _REQUESTS:
                requests += count
                failed, passed = _is_error(one, other), other in _PASSED
                errors += count * failed
                answered += count * passed
                gone = other in _LEFT
                left += count * gone
                refused += count * (not failed and not passed and not gone and other not in _AUDIO_MISSING)
            elif name == _SECONDS:
                cumulative[float(one)] += count
            elif count:
                labels[one] += count
        seconds, before = {}, 0
        for upper in sorted(cumulative):
            seconds[upper] = max(0, cumulative[upper] - before)
            before = cumulative[upper]
        return LiveFigures(requests, answered, errors, refused, left, seconds, labels)


def samples(text: str) -> dict[Sample, float]:
    """The samples of a page of metrics that count here.

    Raises:
        MistereError: it is no page of metrics.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[Sample, float] = {}
    keys = {_REQUESTS: ("protocol", "code"), _SECONDS: ("le", ""), _LABELS: ("label", "")}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in keys:
                    one, other = keys[sample.name]
                    key = (sample.name, sample.labels.get(one, ""), sample.labels.get(other, ""))
                    found[key] = found.get(key, 0.0) + sample.value
    except ValueError as error:
        raise MistereError(f"a predictor's /metrics cannot be read ({error}).") from error
    return found


def _is_error(protocol: str, code: str) -> bool:
    if protocol == "grpc":
        return code in _FAILURES
    with suppress(ValueError):
        return int(code) >= 500 or int(code) == _OVERLOADED
    return False
