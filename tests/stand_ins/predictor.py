"""The predictor's REST interface without a model: the bundle's digest selects the responses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mistere.serving import protocol


class LightPredictor:
    """Listens on the pod's address, as the real predictor does, and says ``metrics`` of its bundle's digest at ``/metrics``."""

    def __init__(
        self,
        container: Mapping[str, Any],
        address: str,
        answers: Mapping[str, list[list[float]]],
        metrics: Callable[[str], str] = lambda _: "",
    ) -> None:
        arguments = container["args"]
        digest, model = arguments[0].rpartition("/")[2], arguments[arguments.index("--model-name") + 1]
        handler = _handler(digest, model, answers[digest], metrics)
        self._server = ThreadingHTTPServer((address, protocol.HTTP_PORT), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(
    digest: str,
    model: str,
    probabilities: list[list[float]],
    metrics: Callable[[str], str],
) -> type[BaseHTTPRequestHandler]:
    count, labels = len(probabilities), [f"label {i}" for i in range(len(probabilities[0]))]

    def tensor(name: str, datatype: str, data: list[Any], *shape: int) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": [count, *shape], "data": data}

    answer = {
        "model_name": model,
        "id": "1",
        "parameters": {
            protocol.MODEL_VERSION: "1",
            protocol.BUNDLE_DIGEST: digest,
            protocol.LABELS: ",".join(labels),
            protocol.EXPERTS: "speech,text,cross_modal",
        },
        "outputs": [
            tensor(protocol.LABEL, "BYTES", [labels[0]] * count),
            tensor(protocol.PROBABILITIES, "FP32", [value for row in probabilities for value in row], len(labels)),
            tensor(protocol.EXPERT_WEIGHTS, "FP32", [0.0, 1.0, 0.0] * count, 3),
            tensor(protocol.MODALITIES_USED, "BYTES", ["text"] * count),
        ],
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._write(200, metrics(digest).encode())
                return
            self._send(200 if self.path == protocol.READY_PATH else 404, {"ready": True})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or "0"))
            is_served = self.path == f"/v2/models/{model}/infer"
            self._send(200 if is_served else 404, answer if is_served else {"error": "unknown model"})

        def _send(self, code: int, content: Any) -> None:
            self._write(code, json.dumps(content).encode())

        def _write(self, code: int, data: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    return Handler
