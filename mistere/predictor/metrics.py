"""Prometheus metrics at ``/metrics``, beside kserve's own histograms. No metric or label contains parts of a payload."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram

from mistere.predictor.tracing.request_trace import TRACES, RequestTrace, TimedPhase

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "mistere_requests",
    "Inference requests, and turns of streams, by protocol and REST code or gRPC status.",
    ["protocol", "code"],
)
PHASES = Histogram(
    "mistere_phase_seconds",
    "Time of a request, or of an interim answer, by phase: decode (request), transcribe, slices (encoding a long request), queue, encode (utterances), mixture, explain, respond.",
    ["phase"],
    buckets=_SECONDS,
)
UTTERANCES = Histogram(
    "mistere_request_utterances",
    "Utterances per dialogue of an answered request, with those that were sent before.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
BATCH = Histogram("mistere_batch_dialogues", "Dialogues per batch.", buckets=(1, 2, 4, 8, 16, 32))
CACHED = Counter(
    "mistere_utterance_vectors", "Vectors of utterances taken from the cache (hit) or computed (miss).", ["found"]
)
TRANSCRIPTS = Counter(
    "mistere_transcripts",
    "Transcripts of recordings without text taken from the cache (hit) or computed (miss).",
    ["found"],
)
UNKNOWN_SCRIPT = Counter(
    "mistere_unknown_script", "New turns whose text is in a script that the model was not trained on."
)
LAST_LABELS = Counter(
    "mistere_last_label",
    "Dialogues by the predicted label of their last utterance, so that a conversation sent again as it grows counts each turn once; none if that is context only.",
    ["label"],
)
CONTEXT = Counter(
    "mistere_context_utterances",
    "Utterances that are context only, each time they are sent; the counters mistere_traffic_… leave them out.",
)
QUEUE_DEPTH = Gauge("mistere_queue_depth", "Requests accepted and not yet answered.")
SAMPLE = Counter(
    "mistere_sample",
    "Requests whose dialogue is kept for labelling: written to the store, dropped because too much waits, or failed.",
    ["outcome"],
)
REQUEST_LOG = Counter(
    "mistere_request_log_lines",
    "Lines of the log of requests: written to the store, dropped because too much waits, or failed.",
    ["outcome"],
)
TRACE_SPANS = Counter("mistere_trace_spans", "Spans of traces sent to the collector, or failed.", ["outcome"])
CONNECTIONS = Gauge("mistere_connections", "Open REST connections.")
CLOSED = Counter(
    "mistere_connections_closed",
    "REST connections closed by the server: at a deadline (idle, head, body), for a large head or body, replaced by a new one, or refused.",
    ["reason"],
)
STREAMS = Gauge("mistere_streams", "Open streams of live audio.")
STREAMS_CLOSED = Counter(
    "mistere_streams_closed",
    "Streams of live audio that ended, by close code; 1006 if the client left without end.",
    ["code"],
)
INTERIM = Counter(
    "mistere_stream_interim",
    "Interim answers to open turns of streams: answered, dropped because the server had other work or the turn ended, or failed.",
    ["outcome"],
)
MODEL = Gauge("mistere_model_info", "The served model.", ["name", "version"])


@cache
def labelled(metric: Any, *labels: str) -> Any:
    """A metric's child for labels that the server chooses; cached, because looking a child up costs more than counting."""
    return metric.labels(*labels)


@contextmanager
def phase(name: str, **sizes: int) -> Iterator[None]:
    """Measure one phase of a request, or of a batch.

    Args:
        name: of the phase.
        sizes: counts that explain the time, for the traces of the requests.
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        observe_phase(name, start, time.perf_counter(), TRACES.get(), sizes)


def observe_phase(
    name: str, began: float, ended: float, traces: Sequence[RequestTrace], sizes: Mapping[str, int] | None = None
) -> None:
    """Count one phase, and add it to the traces of its requests.

    Args:
        name: of the phase.
        began: ``time.perf_counter()``, seconds.
        ended: likewise.
        traces: of the requests.
        sizes: counts that explain the time.
    """
    labelled(PHASES, name).observe(ended - began)
    for trace in traces:
        trace.phases.append(TimedPhase(name, began, ended, sizes or {}))


def observe_dialogue(predicted: Sequence[str]) -> None:
    """Count one answered dialogue.

    Args:
        predicted: label per utterance; empty for one that is context only.
    """
    UTTERANCES.observe(len(predicted))
    CONTEXT.inc(sum(not label for label in predicted))
    if predicted and predicted[-1]:  # an earlier label was the last one of an earlier request
        labelled(LAST_LABELS, predicted[-1]).inc()
