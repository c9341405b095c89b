"""Chooses the requests that are logged, and hands what was noted of them to the writer."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.object_store import open_store
from mistere.config.predictor import BUNDLE_STORE
from mistere.predictor import metrics
from mistere.predictor.protocol.codec import model_version, predicted_labels
from mistere.predictor.request_log.writer import Entry, RequestLogWriter
from mistere.predictor.settings import ServerSettings
from mistere.predictor.tracing.request_trace import TRACING, RequestTrace
from mistere.serving.request_log.line import LoggedRequest, LoggedTurn, logged_hash, logged_id

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction

logger = logging.getLogger("kserve.predictor")

_DIGITS: Final = 6
_ENTRY_BYTES: Final = 2048
"""What an entry takes besides its ids and predictions, at least as much as its line."""
_TURN_BYTES: Final = 256
"""What a turn takes in its line, besides its probabilities."""
_NUMBER_BYTES: Final = 12
"""What a probability takes there."""


def start_request_log(model: EmotionModel, settings: ServerSettings) -> RequestLogWriter | None:
    """Log the requests of this process, if the options ask for it.

    Returns:
        The writer, to be closed at the end; None without a log.

    Raises:
        UsageError: the store of the settings cannot be opened.
    """
    options = settings.options
    if not options.request_log_share:
        return None
    location = options.request_log_store
    if location == BUNDLE_STORE:
        location, _ = split_bundle_location(settings.bundle)
    writer = RequestLogWriter(open_store(location), options.request_log_days, options.traffic_seconds)
    TRACING.log = RequestLog(model, settings.model_name, writer, options.request_log_share)
    logger.info("a share of %g of the requests is logged in %s", options.request_log_share, location)
    return writer


def _held(prediction: DialoguePrediction) -> int:
    """Bytes of the arrays of an answer."""
    arrays = prediction.probabilities, prediction.expert_weights, prediction.expert_probabilities
    return sum(array.nbytes for array in arrays)


class RequestLog:
    """The log of a served model.

    Args:
        model: the model.
        name: its name in the endpoint's paths.
        writer: writes the lines.
        share: of the requests, 0 to 1.
    """

    def __init__(self, model: EmotionModel, name: str, writer: RequestLogWriter, share: float) -> None:
        self._writer, self._share = writer, share
        self._labels = list(model.labels)
        self._described = {
            "model": name,
            "version": model_version(model),
            "bundle": str(model.bundle.digest),
            "replica": writer.replica,
        }

    def wants(self) -> bool:
        """Whether the next request is in the sample."""
        return random.random() < self._share  # noqa: S311  (chooses a sample)

    def add(self, trace: RequestTrace, code: str, error: str, ended: float) -> None:
        """Queue a request. An error is logged, because the answer is right without its line.

        Args:
            trace: what was noted of it.
            code: REST code or gRPC status.
            error: why it was refused, without anything of the request; empty for an answer.
            ended: ``time.perf_counter()``, seconds.
        """
        try:
            turn = _TURN_BYTES + _NUMBER_BYTES * len(self._labels)
            size = _ENTRY_BYTES + sum(_held(one) + turn * len(one.modalities) for one in trace.predictions)

            def line(key: bytes) -> str:
                return self._line(key, trace, code, error, ended).model_dump_json(exclude_defaults=True)

            self._writer.put(Entry(trace.wall_ns / 1e9, size, line))
        except Exception:
            metrics.labelled(metrics.REQUEST_LOG, "failed").inc()
            logger.exception("a request was not logged")

    def _line(self, key: bytes, trace: RequestTrace, code: str, error: str, ended: float) -> LoggedRequest:
        phases: defaultdict[str, float] = defaultdict(float)
        for phase in tuple(trace.phases):
            phases[phase.name] += phase.ended - phase.began
        whole, milliseconds = divmod(trace.wall_ns // 1_000_000, 1000)
        return LoggedRequest(
            time=f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z",
            id=logged_id(key, trace.identity),
            protocol=trace.protocol,
            code=code,
            error=error,
            seconds=round(ended - trace.began, _DIGITS),
            phases={name: round(seconds, _DIGITS) for name, seconds in phases.items()},
            sizes={**({"bytes": trace.bytes} if trace.bytes else {}), **trace.sizes},
            dialogue=logged_hash(key, trace.dialogue_id),
            options=list(trace.flags),
            labels=self._labels if trace.predictions else [],
            turns=[turn for number, one in enumerate(trace.predictions) for turn in self._turns(number, one)],
            **self._described,
        )

    def _turns(self, number: int, prediction: DialoguePrediction) -> list[LoggedTurn]:
        probabilities = np.round(prediction.probabilities.astype(np.float64), _DIGITS).tolist()
        return [
            LoggedTurn(
                dialogue=number,
                turn=index,
                label=label,
                probabilities=probabilities[index],
                modalities=prediction.modalities[index],
            )
            for index, label in enumerate(predicted_labels(prediction, self._labels))
            if label
        ]
