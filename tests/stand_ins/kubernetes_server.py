"""The stand-in for the Kubernetes API on a socket, with injectable errors."""

from __future__ import annotations

import json
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.stand_ins.kubernetes_api import KubernetesApi, RefusalError


@dataclass
class Trouble:
    """An error for the next ``times`` calls of a method; code 0 closes the connection."""

    method: str
    code: int
    times: int = 1
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class KubernetesServer:
    """A cluster's API on a local port, with TLS if a context is given."""

    def __init__(self, cluster: KubernetesApi, tls: ssl.SSLContext | None = None) -> None:
        self.troubles: list[Trouble] = []
        self.calls: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster, self.calls, self.troubles))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def changes(self) -> list[str]:
        """Mutating calls without their query; dry runs are excluded."""
        return [
            f"{method} {path.partition('?')[0].rpartition('/')[2]}"
            for method, path in self.calls
            if method in {"PATCH", "DELETE"} and "dryRun" not in path
        ]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(
    cluster: KubernetesApi, calls: list[tuple[str, str]], troubles: list[Trouble]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or "0"))
            token = self.headers.get("Authorization", "").partition(" ")[2]
            calls.append((self.command, self.path))
            for trouble in troubles:
                if trouble.times and trouble.method == self.command and trouble.path in self.path:
                    trouble.times -= 1
                    if trouble.code:
                        return self._send(trouble.code, {"message": "out of order"}, trouble.headers)
                    self.close_connection = True
                    return None
            try:
                if "watch=1" in self.path:
                    return self._watch(token)
                if "/proxy" in self.path:
                    return self._send(*cluster.proxy(self.command, self.path, token, body))
                return self._send(*cluster.answer(self.command, self.path, token, body))
            except RefusalError as refusal:
                return self._send(refusal.code, refusal.body if refusal.body["reason"] else str(refusal))

        def _send(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
            if isinstance(content, str):
                content = content.encode()
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _watch(self, token: str) -> None:
            events = cluster.watch(self.path, token)
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for event in events:
                    line = json.dumps(event).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except OSError:  # the client has closed the connection, in TLS without saying so
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    for method in ("GET", "POST", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._serve)
    return Handler
