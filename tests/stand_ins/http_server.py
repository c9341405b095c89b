"""A real HTTP server in a thread, for stand-ins: it can be silent, return errors, or have a wrong clock."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One response."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class HttpServer(ABC):
    """A server in a thread; ``received`` records every request's method and path."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.clock_offset = 0.0
        self.trouble: Reply | None = None
        self.silent = False
        self._released = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + owner.clock_offset, usegmt=True)

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                owner.received.append(f"{self.command} {self.path}")
                if owner.silent:
                    owner._released.wait(30)
                    self.close_connection = True
                    return
                reply = owner.trouble or owner.answer(
                    self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body
                )
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                named = {name.lower() for name in reply.headers}
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if "content-type" not in named:
                    self.send_header("Content-Type", "application/json")
                if "content-length" not in named:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def do_GET(self) -> None:
                self.handle_any()

            def do_HEAD(self) -> None:
                self.handle_any()

            def do_POST(self) -> None:
                self.handle_any()

            def do_PUT(self) -> None:
                self.handle_any()

            def do_DELETE(self) -> None:
                self.handle_any()

            def handle_expect_100(self) -> bool:
                more = super().handle_expect_100()
                self.wfile.flush()
                return more

            def log_message(self, format: str, *arguments: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @abstractmethod
    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Return the response to a request."""

    def close(self) -> None:
        """Stop the server; a second call does nothing."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running(server: HttpServer) -> Iterator[Any]:
    """Run a server and close it at the end."""
    try:
        yield server
    finally:
        server.close()
