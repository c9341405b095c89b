"""Makes OpenTelemetry spans of requests and sends them to a collector by OTLP over HTTP, from a thread of its own.

A collector that is slow or gone delays no answer: spans wait in a queue of a fixed length, and the oldest are dropped when it is full.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import MissingPackageError, UsageError
from mistere.predictor import metrics
from mistere.predictor.errors import log_value
from mistere.predictor.protocol.codec import model_version
from mistere.predictor.tracing.request_trace import TRACEPARENT, TRACING, RequestTrace

if TYPE_CHECKING:
    from mistere.config.predictor import PredictorConfig
    from mistere.model.dialogue_model import EmotionModel

logger = logging.getLogger("kserve.predictor")

_QUEUE: Final = 4096
"""Spans that wait to be sent; a request has about six."""
_BATCH: Final = 512
_DELAY_MS: Final = 1000
_SEND_SECONDS: Final = 5.0
"""Longest time to send a batch of spans, with retries."""
CLOSE_SECONDS: Final = 2.0
"""Longest wait for the last spans at the end; Kubernetes kills the pod some seconds later."""
_MESSAGE: Final = 200
"""Characters of a reason that are logged."""
_LIBRARY: Final = "opentelemetry"


def start_tracing(model: EmotionModel, options: PredictorConfig) -> None:
    """Trace the requests of this process, if the options ask for it.

    Raises:
        MissingPackageError: the packages are not installed.
        UsageError: a variable ``OTEL_...`` is wrong.
    """
    if not options.trace_endpoint or TRACING.sender is not None:
        return
    described = {
        "mistere.model.name": model.bundle.name,
        "mistere.model.version": model_version(model),
        "mistere.model.digest": str(model.bundle.digest),
    }
    try:
        TRACING.sender = SpanSender(options.trace_endpoint, options.trace_share, described)
    except ImportError as error:
        raise MissingPackageError(
            "trace_endpoint needs packages that are not installed here: pip install opentelemetry-exporter-otlp-proto-http."
        ) from error
    except ValueError as error:
        raise UsageError(f"trace_endpoint: a variable OTEL_... has a wrong value ({error}).") from error
    logger.info("traces are sent to %s", options.trace_endpoint)


class _LastMessage(logging.Handler):
    """Keeps the last message of the library, instead of a line in the log for each retry."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class SpanSender:
    """Sends traces.

    Args:
        endpoint: URL that takes spans, ``http://host:4318/v1/traces``.
        share: of the requests without a ``traceparent`` that are traced, 0 to 1. With one, the caller has decided.
        described: attributes of the served model.
    """

    def __init__(self, endpoint: str, share: float, described: dict[str, str]) -> None:
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        from opentelemetry.trace.status import Status, StatusCode

        class Counted(SpanExporter):
            """The exporter, with its outcome counted, and logged when it changes."""

            def __init__(self, inner: SpanExporter, count: Any) -> None:
                self._inner, self._count = inner, count

            def export(self, spans: Sequence[Any]) -> SpanExportResult:
                result = self._inner.export(spans)
                self._count(len(spans), result is SpanExportResult.SUCCESS)
                return result

            def shutdown(self) -> None:
                self._inner.shutdown()

        self._endpoint, self._failing, self._messages = endpoint, False, _LastMessage()
        library = logging.getLogger(_LIBRARY)
        library.handlers, library.propagate = [self._messages], False
        exporter = Counted(OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_SECONDS), self._counted)
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=_QUEUE,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_DELAY_MS,
            export_timeout_millis=_SEND_SECONDS * 1000,
        )
        name = os.environ.get("OTEL_SERVICE_NAME") or "mistere-predictor"
        resource = Resource.create({"service.name": name, "service.instance.id": os.uname().nodename, **described})
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=resource, shutdown_on_exit=False
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("mistere.predictor")
        self._propagator, self._context, self._in_span = TraceContextTextMapPropagator(), Context, set_span_in_context
        self._server_kind, self._error = SpanKind.SERVER, Status(StatusCode.ERROR)

    def begin(self, protocol: str, traceparent: str | None) -> RequestTrace | None:
        """Begin the trace of a request; None if it is not in the sample.

        Args:
            protocol: of the request.
            traceparent: the caller's header. One that is malformed counts as none.
        """
        context = self._context()
        if traceparent is not None:
            context = self._propagator.extract({TRACEPARENT: traceparent}, context)
        span = self._tracer.start_span("request", context, kind=self._server_kind)
        return RequestTrace(span, protocol) if span.is_recording() else None

    def end(self, trace: RequestTrace, code: str, failed: bool, ended: float) -> None:
        """Make the spans of an answered request, and queue them.

        Args:
            trace: of the request.
            code: REST code or gRPC status.
            failed: whether the server failed, not the client.
            ended: ``time.perf_counter()``, seconds.
        """
        below = self._in_span(trace.span, self._context())
        for phase in tuple(trace.phases):
            child = self._tracer.start_span(
                phase.name,
                below,
                start_time=trace.nanoseconds(phase.began),
                attributes={f"mistere.{name}": size for name, size in phase.sizes.items()},
            )
            child.end(trace.nanoseconds(phase.ended))
        trace.span.set_attributes({"mistere.protocol": trace.protocol, "mistere.code": code})
        trace.span.set_attributes({f"mistere.{name}": size for name, size in trace.sizes.items()})
        if failed:
            trace.span.set_status(self._error)
        trace.span.end(trace.nanoseconds(ended))

    def close(self) -> None:
        """Send what waits, for a bounded time."""
        closing = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _counted(self, spans: int, sent: bool) -> None:
        metrics.labelled(metrics.TRACE_SPANS, "sent" if sent else "failed").inc(spans)
        if not sent and not self._failing:
            reason = log_value(self._messages.text, _MESSAGE)
            logger.warning("traces are not sent to %s (%s)", self._endpoint, reason)
        elif sent and self._failing:
            logger.info("traces are sent to %s again", self._endpoint)
        self._failing = not sent
