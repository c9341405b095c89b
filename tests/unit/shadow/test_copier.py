"""The thread that copies: which options its shadow has, and what becomes of a copy that the shadow does not take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mistere.config.predictor import PredictorConfig
from mistere.config.predictor_options import resolve
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.settings import parse_arguments
from mistere.predictor.shadow.copy import DialogueCopy
from mistere.predictor.shadow.peer import CopyError, Identity, Peer
from mistere.predictor.shadow.targets import shadow_arguments, shadow_environment
from mistere.serving.shadow.figures import ERRORS, OUTCOMES

LABELS = ("anger", "joy")


class Server(ThreadingHTTPServer):
    """A shadow that identifies itself, and answers each copy with one status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.ready = 413, True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        content = f'{{"properties": {{"bundle_digest": "{"f" * 64}", "labels": "{",".join(LABELS)}"}}}}'
        self.send(200 if self.server.ready else 503, content.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send(self.server.status, b"{}")

    def send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
        yield started
        started.shutdown()


@pytest.mark.parametrize(
    ("status", "outcome"), [(413, "unsendable"), (429, "busy"), (503, "busy"), (400, "refused"), (500, "failed")]
)
def test_a_copy_that_is_too_large_is_no_error_of_the_shadow(server: Server, status: int, outcome: str) -> None:
    server.status = status
    peer = Peer(server.url, "mistere", 5)
    copy = DialogueCopy("id", DialogueRequest(turns=[RequestTurn("Hello")]), np.array([[0.6, 0.4]]), 0.01)
    with pytest.raises(CopyError) as caught:
        peer.ask(copy, Identity("f" * 64, LABELS))
    peer.close()
    assert caught.value.outcome == outcome and outcome in OUTCOMES
    assert (outcome in ERRORS) == (status in (400, 500))


def test_a_shadow_on_this_machine_has_the_options_of_the_predictor_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MISTERE_PREDICTOR_MAX_UTTERANCES": "20", "MISTERE_PREDICTOR_MAX_SECONDS": "50"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = {"max_utterances": 500, "int8": True, "shadow": "local", "sample_share": 0.5, "shadow_idle": False}
    front = resolve({**given, "max_seconds": 30}, environment)
    shadow = parse_arguments(["bundle", *shadow_arguments(front)], shadow_environment()).options
    assert (shadow.max_utterances, shadow.int8, shadow.max_seconds, shadow.shadow_idle) == (500, True, 30, False)
    assert (shadow.copies, shadow.shadow, shadow.sample_share, shadow.traffic_store) == (True, "", 0, "")
    assert shadow == front.for_shadow().model_copy(update={"drain_seconds": 0.0})
    assert "--shadow-idle" in shadow_arguments(PredictorConfig()), "the process reads it before its options"
