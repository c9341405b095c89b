"""The thread that copies: which options its shadow has, and what becomes of a copy that the shadow does not take."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.config.predictor import PredictorConfig
from mistere.config.predictor_options import resolve
from mistere.predictor import model as predictor
from mistere.predictor.answer_observers import AnsweredRequest
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.settings import ServerSettings, parse_arguments
from mistere.predictor.shadow import copier, targets
from mistere.predictor.shadow.copier import ShadowCopier
from mistere.predictor.shadow.copy import DialogueCopy
from mistere.predictor.shadow.peer import CopyError, Identity, Peer
from mistere.predictor.shadow.targets import FixedTarget, shadow_arguments, shadow_environment
from mistere.runs.shadow_comparison import window_of
from mistere.serving.deployment import Deployment
from mistere.serving.shadow.figures import ERRORS, OUTCOMES, DifferingDialogue, ShadowCounts
from mistere.serving.shadow.pointer import Shadow, shadow_pointer_key

LABELS = ("anger", "joy")
ID = "Jane Doe +49 30 1234567"


class Server(ThreadingHTTPServer):
    """A shadow that identifies itself, and answers each copy with one status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.ready, self.content = 413, True, b"{}"

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
        self.send(self.server.status, self.server.content)

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


class Run:
    """A copier whose shadow is at a fixed address, and its counts."""

    def __init__(self, url: str, store: LocalStore) -> None:
        bundle = SimpleNamespace(digest="a" * 64)
        model: Any = SimpleNamespace(bundle=bundle, labels=LABELS, vector_digests={})
        self.outcomes: Counter[str] = Counter()
        self.dialogues: list[DifferingDialogue] = []
        recorder: Any = SimpleNamespace(change=self.change, close=lambda _: None)
        self.copier = ShadowCopier(model, "mistere", FixedTarget(url, store, "mistere"), recorder, 1.0, 8, 5.0)

    def change(self, digest: str, labels: tuple[str, ...], change: Callable[[ShadowCounts], object]) -> None:
        counts = ShadowCounts(LABELS, labels)
        change(counts)
        self.outcomes.update({name: count for name, count in counts.outcomes.items() if count})
        self.dialogues += counts.dialogues

    def offer(self) -> None:
        prediction: Any = SimpleNamespace(probabilities=np.array([[0.6, 0.4]]))
        self.copier.offer(ID, [DialogueRequest(turns=[RequestTurn("Hello")])], [prediction], 0.01)

    def offer_until(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not is_done():
            assert time.monotonic() < deadline, self.outcomes
            self.offer()
            time.sleep(0.005)

    def is_quiet(self) -> bool:
        """Whether the copier has forgotten the shadow, so that nothing is counted."""
        before = sum(self.outcomes.values())
        for _ in range(20):
            self.offer()
            time.sleep(0.005)
        return sum(self.outcomes.values()) == before


@pytest.mark.parametrize("recorded", [True, False])
def test_a_shadow_that_was_removed_is_no_error_and_one_that_fails_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    monkeypatch.setattr(copier, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(copier, "_WAKE_SECONDS", 0.02)
    store = LocalStore(tmp_path / "store")
    key = shadow_pointer_key("mistere")
    if recorded:
        store.write(key, b"{}")
    run = Run(server.url, store)
    try:
        run.offer_until(lambda: run.outcomes["unsendable"] > 0)
        server.ready = False
        monkeypatch.setattr(run.copier, "_accepts", False)  # as after several copies without a connection
        errors = run.outcomes["unreachable"]
        run.offer_until(lambda: run.outcomes["unreachable"] > errors + 50)
        if recorded:
            store.delete_object(key)
        else:
            monkeypatch.setattr(targets, "_GONE_SECONDS", 0.05)
        run.offer_until(run.is_quiet)
        server.ready, server.status = True, 500  # another one is started
        run.offer_until(lambda: run.outcomes["failed"] > 0)
    finally:
        run.copier.close()


def test_an_id_that_a_client_chose_is_in_the_log_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = '[{"name": "probabilities", "shape": [1, 2], "data": [0.2, 0.8]}]'
    server.status = 200
    server.content = f'{{"outputs": {output}, "parameters": {{"bundle_digest": "{"f" * 64}"}}}}'.encode()
    run = Run(server.url, LocalStore(tmp_path / "store"))
    try:
        run.offer_until(lambda: bool(run.dialogues))
    finally:
        run.copier.close()
    (name,) = {one.identity for one in run.dialogues}
    assert re.fullmatch("[0-9a-f]{16}", name)
    lines: list[str] = []
    monkeypatch.setattr(predictor.logger, "info", lambda form, *values: lines.append(form % values))
    model: Any = SimpleNamespace(bundle=SimpleNamespace(digest="a" * 64), labels=LABELS, vector_digests={}, experts=[])
    for shadow in (server.url, ""):
        options = PredictorConfig(shadow=shadow)
        served: Any = SimpleNamespace(
            name="mistere", _settings=ServerSettings("bundle", options=options), _observers=None
        )
        predictor.EmotionPredictor._observe(served, AnsweredRequest(ID, [], [], [], None, 0.01), model)
    assert f'request="{ID}"' in lines[0] and lines[0].endswith(f" hash={name}") and "hash=" not in lines[1]


def test_a_report_begins_with_the_shadow() -> None:
    deployment = Deployment(service="mistere", bundle_location="x", bundle_digest="f" * 64, model_version="2")
    hour = 500_000

    def window(started_at: float) -> tuple[int, int]:
        shadow = Shadow(deployment=deployment, model_name="mistere", started_at=started_at, by="test")
        return window_of(shadow, 168, hour * 3600 + 1800)

    assert window(1.0) == (hour - 167, hour + 1)
    assert window((hour - 3) * 3600 + 3599) == (hour - 3, hour + 1)
    assert window((hour + 9) * 3600) == (hour, hour + 1), "the clock of who started it is ahead"


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
