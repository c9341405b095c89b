"""``mistere shadow``: from the start of a shadow over its report to its release, with real predictors and an MLflow server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.paths import sqlite_url
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log
from mistere.serving.client import DialogueClient
from mistere.serving.dialogue import DialogueTurn
from mistere.serving.shadow.pointer import find_shadow, shadow_pointer_key
from tests.local.servers import free_port, mlflow_server
from tests.local.test_approval import Office, one_line
from tests.local.workshop import ROOT, mistere_in_process, tone

pytestmark = pytest.mark.long
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\n7"


@pytest.fixture(scope="module")
def office(tree: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("shadow")
    with mlflow_server(sqlite_url(folder / "mlflow.db"), folder / "server") as tracking:
        yield Office(tree, data, folder / "output", tracking)


@contextmanager
def serving(office: Office, *options: str) -> Iterator[DialogueClient]:
    """``mistere serve`` with a shadow, which writes often."""
    port = free_port()
    ports = ["--port", str(port), "--grpc-port", str(free_port()), "--output", str(office.output)]
    copying = [
        "--shadow",
        "local",
        "--no-shadow-idle",
        "--shadow-share",
        "1",
        "--traffic-seconds",
        "0.5",
        "--drain-seconds",
        "0",
    ]
    log = office.output / "serve.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "mistere", "serve", *ports, *copying, *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
    client = DialogueClient(f"http://127.0.0.1:{port}")
    try:
        client.wait_ready(180)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()


def report(office: Office, *options: str) -> subprocess.CompletedProcess[str]:
    return office_call(office, "report", *options, tracking=False)


def office_call(office: Office, *arguments: str, tracking: bool = True) -> subprocess.CompletedProcess[str]:
    options = ["--output", str(office.output), *(["--tracking", office.tracking] if tracking else [])]
    return mistere_in_process("shadow", *arguments, *options)


def test_a_version_is_compared_and_then_released(office: Office, tmp_path: Path) -> None:
    assert office.run().code == 0
    held = office.run(
        *("--set", "mixture.seed=1"),
        *("--set", "gate.champion_margin=0", "--set", "gate.champion_mode=superiority"),
    )
    assert held.code == 3 and office.states()["2"] == "waiting", held.text
    one_line(report(office), 2, "has no shadow: start one with `mistere shadow start MODEL`")
    one_line(office_call(office, "start", "1"), 2, "is deployed: a shadow compares another version with it")
    one_line(office_call(office, "stop"), 2, "has no shadow")
    started = office_call(office, "start", "2")
    assert started.returncode == 0 and "is the shadow of mistere" in started.stdout, started
    one_line(report(office), 1, "no request was copied to mistere/2")
    with serving(office) as client:
        deadline = time.monotonic() + 180
        number = 0
        while (done := report(office, "--json")).returncode == 1 or json.loads(done.stdout)["turns"] < 250:
            assert time.monotonic() < deadline, done
            for _ in range(20):
                number += 1
                texts = [f"{word} {number}" for word in ("all is well", "stop it", "lovely news")]
                client.predict_rest([DialogueTurn(text, tone(150.0 + number, 0.4)) for text in texts])
            time.sleep(0.5)
        body = {"id": HOSTILE, "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["well"]}]}
        assert httpx.post(f"{client.url}/v2/models/mistere/infer", json=body, timeout=60).status_code == 200
    result = json.loads(done.stdout)
    assert result["verdict"] in ("alike", "different", "undecided")
    assert {"alike": 0, "different": 5, "undecided": 6}[result["verdict"]] == done.returncode
    agreement = result["agreement"]
    assert 0 <= agreement["low"] <= agreement["share"] <= agreement["high"] <= 1
    assert result["copies"]["compared"] == result["dialogues"] and result["errors"]["part"] == 0
    assert report(office, "--min-agreement", "0", "--max-errors", "0.2").returncode == 0
    one_line(report(office, "--min-agreement", "2"), 2, "is no share")
    one_line(report(office, "--since", "soon"), 2, "is no duration")
    shown = report(office).stdout
    assert "\x1b" not in shown and "latency" in shown and "copies" in shown
    page = (office.output / "shadow.html").read_text()
    assert "<img" not in page and "http" not in page.replace("http://www.w3.org", "") and "<svg" in page
    store = LocalStore(office.output / "store")
    for path in (store.root / "shadow").rglob("*.parquet"):
        assert b"lovely" not in path.read_bytes()
    one_line(office_call(office, "promote"), 2, "waits for a person: say why with --reason")
    promoted = office_call(office, "promote", "--reason", "Watched it for a day")
    assert promoted.returncode == 0, promoted.stderr
    champion = read_champion(store).champion
    assert champion is not None and champion.model_version == "2"
    event = [one for one in read_log(store).events if one.outcome == "done"][-1]
    assert event.action == "approve" and event.reason.startswith("Watched it for a day. As a shadow it agreed on ")
    assert find_shadow(store, "mistere") is None


def test_a_damaged_record_is_named_and_can_be_removed(office: Office) -> None:
    store = LocalStore(office.output / "store")
    store.write(shadow_pointer_key("mistere"), b"{")
    one_line(report(office), 1, "is damaged; remove it with `mistere shadow stop`")
    assert office_call(office, "stop").returncode == 0
    one_line(office_call(office, "stop"), 2, "has no shadow")
