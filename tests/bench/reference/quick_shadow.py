"""A shadow that answers at once with equal probabilities: what it costs the predictor in front is copying alone.

usage: quick_shadow.py PORT LABELS
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson


class Handler(BaseHTTPRequestHandler):
    """Two paths: what it serves, and an answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    labels: str
    digest = "quick"

    def do_GET(self) -> None:
        self._send({"properties": {"bundle_digest": self.digest, "labels": self.labels}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = orjson.loads(body[: int(self.headers["Inference-Header-Content-Length"])])
        turns, labels = head["inputs"][0]["shape"][0], self.labels.count(",") + 1
        output = {"name": "probabilities", "shape": [turns, labels], "data": [1 / labels] * (turns * labels)}
        self._send({"outputs": [output], "parameters": {"bundle_digest": self.digest}})

    def _send(self, content: object) -> None:
        data = orjson.dumps(content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Handler.labels = sys.argv[2]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
