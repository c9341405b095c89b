"""A JSON API on a real socket with injectable errors; clients see the responses of the real server."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit


class RefusalError(Exception):
    """A response that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Trouble:
    """An injected error: the next ``times`` requests whose method and path match are answered with ``status``.

    ``done`` performs the request first and then loses the response; ``seconds`` delays the response.
    """

    method: str
    path: str
    status: int = 503
    times: int = 1
    done: bool = False
    seconds: float = 0.0
    body: str | None = None
    content_type: str = "application/json"


class Api(Protocol):
    """The state of a server: its responses and switches.

    Attributes:
        prefix: of every path of the API.
        token: that a request must carry; empty for none.
        clock: seconds by which the server's clock is off.
        troubles: see :class:`Trouble`.
        requests: methods and paths as they came.
    """

    prefix: str
    token: str
    clock: float
    troubles: list[Trouble]
    requests: list[tuple[str, str]]

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, content_type: str) -> Any:
        """Return the response as plain data, or raise :class:`RefusalError`."""

    def outside(self, path: str) -> tuple[int, str, str]:
        """The response to a request outside the API: status, body and content type."""

    def refusal(self, error: RefusalError, path: str) -> Any:
        """The body of an error response."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing; the tests read the requests from the state."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.api.clock)

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.api.requests.append((self.command, path))
        trouble = next(
            (t for t in self.api.troubles if t.times and t.method == self.command and re.search(t.path, path)), None
        )
        status, text, kind = 200, "", "application/json"
        try:
            if trouble and not trouble.done:
                self._trouble(trouble)
            if not path.startswith(self.api.prefix):
                return self._send(*self.api.outside(path))
            if self.api.token and self.headers.get("Authorization") != f"Bearer {self.api.token}":
                # Kubeflow Pipelines: auth/authenticator_token_review.go; the same for an expired token and a wrong audience.
                raise RefusalError(401, "Failed to authenticate token review: Review.Status.Authenticated is false")
            plain = self.api.answer(
                self.command, path.removeprefix(self.api.prefix), query, body, self.headers.get("Content-Type", "")
            )
            if trouble:
                self._trouble(trouble)
            text = json.dumps(plain)
        except RefusalError as error:
            status, kind = error.status, trouble.content_type if trouble else kind
            text = json.dumps(self.api.refusal(error, path))
            text = trouble.body if trouble and trouble.body is not None else text
        return self._send(status, text, kind)

    def _trouble(self, trouble: Trouble) -> None:
        trouble.times -= 1
        time.sleep(trouble.seconds)
        raise RefusalError(trouble.status, "trouble on demand")

    def _send(self, status: int, text: str, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())
        except (BrokenPipeError, ConnectionResetError):  # the client disconnected
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815


@contextmanager
def listening(api: Api) -> Iterator[str]:
    """Serve the API on a local port; yields its URL."""
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
