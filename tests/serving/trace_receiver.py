"""A collector: takes spans by OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class TraceReceiver:
    """What the collector has received.

    Attributes:
        url: its base URL.
        spans: the spans.
        resources: the resources that sent them, as dictionaries.
        bodies: the bodies as they came.
        headers: the headers of the last one.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.headers: dict[str, str] = {}

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({each.key: each.value.string_value for each in group.resource.attributes})
            for scope in group.scope_spans:
                self.spans += scope.spans

    def of(self, trace: str, seconds: float = 60) -> tuple[Any, list[Any]]:
        """The span of the request of a trace and those below it, once they are all here."""
        deadline = time.monotonic() + seconds
        while True:
            spans = [span for span in self.spans if span.trace_id.hex() == trace]
            for root in (span for span in spans if span.name == "request"):  # it ends last, so all others came before
                return root, [span for span in spans if span is not root]
            assert time.monotonic() < deadline, f"no trace {trace} in {len(self.spans)} spans"
            time.sleep(0.05)


@contextmanager
def trace_receiver() -> Iterator[TraceReceiver]:
    """Run a collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.headers = {"path": self.path, **dict(self.headers)}
            receiver.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = TraceReceiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
