"""A shadow over HTTP: copies of requests are compared, and whatever happens to the shadow harms no answer."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.serving.deployment import Deployment
from mistere.serving.shadow.figures import ShadowCounts
from mistere.serving.shadow.files import read_comparisons
from mistere.serving.shadow.pointer import Shadow, remove_shadow, write_shadow
from mistere.serving.shadow.summary import Summary
from tests.serving.conftest import LABELS, Server, Utterance, clip, launch, make_bundle
from tests.serving.test_lifecycle import wait_for
from tests.serving.test_traffic import shown

pytestmark = pytest.mark.long
PREDICTOR = ["-m", "mistere.predictor"]
FRONT = ("--shadow-share", "1", "--traffic-seconds", "0.2", "--drain-seconds", "0")


@dataclass(frozen=True)
class Pair:
    """Two bundles of one store with different mixtures."""

    store: LocalStore
    front: str
    other: str

    def counts(self) -> ShadowCounts:
        """What the front has written, of all hours."""
        digests = Path(self.front).name, Path(self.other).name
        labels = tuple(LABELS), tuple(LABELS)
        total = ShadowCounts(*labels)
        for counts in read_comparisons(self.store, digests, labels, (0, 1 << 30), pytest.fail).values():
            total.add(counts)
        return total

    def wait(self, condition: Callable[[ShadowCounts], bool], seconds: float = 240) -> ShadowCounts:
        deadline = time.monotonic() + seconds
        while not condition(counts := self.counts()):
            assert time.monotonic() < deadline, counts
            time.sleep(0.1)
        return counts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    front = make_bundle(folder)
    store = LocalStore(Path(front).parents[2])
    return Pair(store, front, _of_another_temperature(store, front, folder))


def _of_another_temperature(store: LocalStore, front: str, folder: Path) -> str:
    """The same bundle with other answers: sharper probabilities."""
    from mistere.artifacts.io import artifact_key, open_artifact, publish
    from mistere.artifacts.manifests import ModelBundle

    bundle = open_artifact(store, ModelBundle, Path(front).name)
    work = folder / "other"
    shutil.copytree(bundle.path, work)
    (work / "manifest.json").unlink()
    manifest = bundle.manifest.model_copy(update={"temperature": 0.4, "files": {}, "digest": ""})
    return store.location(artifact_key("ModelBundle", publish(store, manifest, work).digest))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts predictors, and kills them at the end."""
    started: list[Server] = []

    def launched(bundle: str, *options: str) -> Server:
        started.append(launch(PREDICTOR, bundle, tmp_path / f"{len(started)}.log", *options))
        return started[-1]

    yield launched
    for server in started:
        server.process.kill()
        server.process.wait()


def copies(server: Server, outcome: str) -> int:
    return int(shown(server, rf'mistere_shadow_copies_total\{{outcome="{outcome}"\}}'))


def wait_for_copies(server: Server, outcome: str, least: int, ask: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + 240
    while copies(server, outcome) < least:
        assert time.monotonic() < deadline, server.log.read_text()
        ask()
        time.sleep(0.05)


def dialogue_of(number: int) -> list[Utterance]:
    return [Utterance(f"Hello {number}.", clip(0.6, pitch=200 + number)), Utterance("And now?"), Utterance()]


def test_answers_of_both_are_compared(pair: Pair, start: Callable[..., Server]) -> None:
    shadow = start(pair.other, "--copies", "--drain-seconds", "0")
    front = start(pair.front, "--shadow", shadow.url, *FRONT)
    for server in (front, shadow):
        wait_for(server, "/v2/health/ready", 200)
    wait_for_copies(front, "compared", 1, lambda: front.client.predict_rest([Utterance("One?")]))
    before = pair.wait(lambda counts: counts.outcomes["compared"] == copies(front, "compared"))
    expected = []
    for number in range(3):
        dialogue = dialogue_of(number)
        answer = front.client.predict_rest(dialogue)
        expected.append((answer, shadow.client.predict_rest(dialogue)))
    front.client.predict_v1(dialogue_of(2))  # the same again: its turns are compared once
    front.client.predict_grpc([*dialogue_of(2), Utterance("One more.")])
    counts = pair.wait(lambda counts: counts.outcomes["compared"] == before.outcomes["compared"] + 5)
    turns, dialogues = (int(counts.sums[-1, at] - before.sums[-1, at]) for at in (1, 0))
    assert (turns, dialogues) == (10, 3)
    same = sum(a == b for one, other in expected for a, b in zip(one.predicted, other.predicted, strict=True))
    assert same <= counts.sums[-1, 2] - before.sums[-1, 2] <= same + 1
    distances = [np.abs(one.probabilities - other.probabilities).sum(1).mean() / 2 for one, other in expected]
    assert max(distances) > 0.005
    assert counts.seconds.sum() == 2 * counts.outcomes["compared"]
    assert not counts.copies - counts.outcomes["compared"]
    assert Summary(counts).errors.part == 0
    assert shown(shadow, "mistere_traffic_turns_total") == 0, "copies are counted by the front alone"
    assert shown(front, "mistere_traffic_turns_total") > 0


def test_a_dialogue_id_cannot_do_harm_and_nothing_else_of_a_request_is_stored(
    pair: Pair, start: Callable[..., Server]
) -> None:
    shadow = start(pair.other, "--copies", "--drain-seconds", "0")
    front = start(pair.front, "--shadow", shadow.url, *FRONT)
    for server in (front, shadow):
        wait_for(server, "/v2/health/ready", 200)
    wait_for_copies(front, "compared", 1, lambda: front.client.predict_rest([Utterance("Warm.")]))
    ids = [
        "<script>alert(1)</script>",
        "../../../etc/passwd",
        "\x1b[31mred\r\nrequest=forged",
        "\u202egro",
        "x" * 256,
        "call 7",
    ]
    infer = f"{front.url}/v2/models/mistere/infer"
    before = copies(front, "compared")
    for number, identity in enumerate(ids):
        text = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [f"secret{number} words"]}
        assert httpx.post(infer, json={"id": identity, "inputs": [text]}, timeout=60).status_code == 200
    wait_for_copies(front, "compared", before + len(ids))
    assert front.terminate() == 0
    digests = Path(pair.front).name, Path(pair.other).name
    for path in (pair.store.root / "shadow" / digests[0] / digests[1]).rglob("*"):
        assert path.is_dir() or re.fullmatch(r"[A-Za-z0-9.-]+\.parquet", path.name), path
        assert path.is_dir() or (b"secret" not in path.read_bytes() and path.stat().st_size < 65_536)
    for one in pair.counts().dialogues:
        assert f" hash={one.identity}\n" in front.log.read_text() and one.identity not in ids
    for log in (front.log, shadow.log):
        assert "secret" not in log.read_text() and "Traceback" not in log.read_text()
        assert not re.search(r"^request=forged", log.read_text(), re.MULTILINE)


class _Trouble(BaseHTTPRequestHandler):
    """A shadow that identifies itself and then answers as the test says."""

    protocol_version = "HTTP/1.1"
    digest = "f" * 64
    behave: Callable[[Any], None]

    def do_GET(self) -> None:
        labels = ",".join(LABELS)
        self.send(200, f'{{"properties": {{"bundle_digest": "{self.digest}", "labels": "{labels}"}}}}'.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).behave(self)

    def send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the predictor has hung up
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _drip(handler: _Trouble) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.1)


def _endless(handler: _Trouble) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" " * 65536)


_NAN = b'{"outputs": [{"name": "probabilities", "shape": [1, 4], "data": [null, 1, 1, 1]}], "parameters": {"bundle_digest": "%s"}}'
TROUBLES: dict[str, tuple[Callable[[Any], None], str]] = {
    "fails": (lambda handler: handler.send(500, b"{}"), "failed"),
    "refuses": (lambda handler: handler.send(400, b'{"error": "no"}'), "refused"),
    "is busy": (lambda handler: handler.send(429, b"{}"), "busy"),
    "redirects": (lambda handler: handler.send(302, b""), "failed"),
    "answers no JSON": (lambda handler: handler.send(200, b"\xff" * 100), "malformed"),
    "answers deep JSON": (lambda handler: handler.send(200, b"[" * 100_000), "malformed"),
    "answers no numbers": (lambda handler: handler.send(200, _NAN % (b"f" * 64)), "malformed"),
    "drips": (_drip, "slow"),
    "does not answer": (lambda handler: time.sleep(3), "slow"),
    "answers without end": (_endless, "malformed"),
    "hangs up": (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "unreachable"),
}


def test_a_shadow_in_trouble_harms_no_answer(pair: Pair, start: Callable[..., Server]) -> None:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _Trouble)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_address[1]}"
    front = start(pair.front, "--shadow", url, "--shadow-seconds", "0.5", "--shadow-queue", "2", *FRONT)
    try:
        wait_for(front, "/v2/health/ready", 200)
        for name, (behave, outcome) in TROUBLES.items():
            _Trouble.behave = staticmethod(behave)  # type: ignore[assignment]
            before = copies(front, outcome)
            deadline = time.monotonic() + 60
            while copies(front, outcome) == before:
                assert time.monotonic() < deadline, (name, front.log.read_text())
                begun = time.perf_counter()
                assert len(front.client.predict_rest([Utterance("Are you there?")]).predicted) == 1
                assert time.perf_counter() - begun < 5
        _Trouble.behave = staticmethod(lambda handler: time.sleep(3))  # type: ignore[assignment]
        wait_for_copies(front, "full", 1, lambda: front.client.predict_rest([Utterance("More?")]))
    finally:
        httpd.shutdown()
        httpd.server_close()
    wait_for_copies(front, "unreachable", 8, lambda: front.client.predict_rest([Utterance("Gone?")]))
    assert front.terminate() == 0
    assert "Traceback" not in front.log.read_text()


def running(part: str) -> list[int]:
    """Processes of this user with this in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if part in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_shadow_of_this_machine_follows_the_store_and_survives_kill_9(
    pair: Pair, start: Callable[..., Server]
) -> None:
    front = start(pair.front, "--shadow", "local", "--no-shadow-idle", *FRONT)
    command = f"mistere.predictor.shadow {front.process.pid}"
    wait_for(front, "/v2/health/ready", 200)
    assert running(command) == []
    deployment = Deployment(
        service="mistere", bundle_location=pair.other, bundle_digest=Path(pair.other).name, model_version="2"
    )
    write_shadow(pair.store, Shadow(deployment=deployment, model_name="mistere", started_at=1.0, by="test"))
    try:

        def ask() -> None:
            front.client.predict_rest([Utterance("Who is there?")])

        wait_for_copies(front, "compared", 2, ask)
        (first,) = running(command)
        assert os.sched_getscheduler(first) == os.SCHED_OTHER
        os.kill(first, signal.SIGKILL)
        compared = copies(front, "compared")
        ask()
        wait_for_copies(front, "compared", compared + 2, ask)
        (second,) = running(command)
        assert second != first
        os.kill(second, signal.SIGSTOP)  # neither answers nor ends
        for _ in range(5):
            begun = time.perf_counter()
            ask()
            assert time.perf_counter() - begun < 5
        os.kill(second, signal.SIGKILL)
        compared = copies(front, "compared")
        wait_for_copies(front, "compared", compared + 1, ask)
        front.process.kill()
        front.process.wait()
        deadline = time.monotonic() + 30
        while running(command):
            assert time.monotonic() < deadline, "the shadow outlives the predictor"
            time.sleep(0.05)
    finally:
        remove_shadow(pair.store, "mistere")


def test_a_shadow_of_this_machine_takes_only_the_time_that_is_left(pair: Pair, start: Callable[..., Server]) -> None:
    deployment = Deployment(
        service="other", bundle_location=pair.other, bundle_digest=Path(pair.other).name, model_version="2"
    )
    write_shadow(pair.store, Shadow(deployment=deployment, model_name="mistere", started_at=1.0, by="test"))
    front = start(pair.front, "--shadow", "local", "--model-name", "other", *FRONT)
    command = f"mistere.predictor.shadow {front.process.pid}"
    deadline = time.monotonic() + 180
    while not (found := running(command)) or os.sched_getscheduler(found[0]) != os.SCHED_IDLE:
        assert time.monotonic() < deadline, front.log.read_text()
        time.sleep(0.05)
    front.process.kill()
    deadline = time.monotonic() + 30
    while running(command):
        assert time.monotonic() < deadline, "the shadow outlives a predictor that is killed while it starts"
        time.sleep(0.05)


def test_a_removed_shadow_ends(pair: Pair, start: Callable[..., Server]) -> None:
    deployment = Deployment(
        service="mistere", bundle_location=pair.other, bundle_digest=Path(pair.other).name, model_version="2"
    )
    write_shadow(pair.store, Shadow(deployment=deployment, model_name="mistere", started_at=1.0, by="test"))
    front = start(pair.front, "--shadow", "local", "--no-shadow-idle", *FRONT)
    command = f"mistere.predictor.shadow {front.process.pid}"
    wait_for(front, "/v2/health/ready", 200)
    wait_for_copies(front, "compared", 1, lambda: front.client.predict_rest([Utterance("Who is there?")]))
    pair.store.write("deployments/mistere/shadow.json", b"{damaged")
    time.sleep(3)
    assert len(running(command)) == 1, "a damaged record ends nothing"
    remove_shadow(pair.store, "mistere")
    deadline = time.monotonic() + 60
    while running(command):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    unreachable = copies(front, "unreachable")
    front.client.predict_rest([Utterance("Still there?")])
    assert copies(front, "unreachable") == unreachable, "a shadow that was removed is no error"
    assert front.terminate() == 0
