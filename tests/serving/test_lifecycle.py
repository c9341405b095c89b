"""Starting and stopping: what the server says when it cannot start, when it is ready, and what it loses (nothing)."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import ROOT, Server, free_port, launch

MOODY = [str(Path(__file__).with_name("moody_server.py"))]
SLEEP = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["sleep"]}]}


def status(server: Server, path: str) -> int:
    try:
        return httpx.get(server.url + path, timeout=2).status_code
    except httpx.HTTPError:
        return 0


def wait_for(server: Server, path: str, code: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while status(server, path) != code:
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.02)


def test_not_ready_while_loading_then_drained_without_loss(tmp_path: Path) -> None:
    gate = tmp_path / "loaded"
    server = launch(MOODY, str(gate), tmp_path / "log", "--drain-seconds", "1")
    infer = f"{server.url}/v2/models/mistere/infer"
    try:
        wait_for(server, "/v2/health/live", 200)
        assert status(server, "/v2/health/ready") == 503
        early = httpx.post(infer, json=SLEEP)
        assert early.status_code == 503
        assert early.json() == {"error": "The model is not ready."}
        gate.touch()
        wait_for(server, "/v2/health/ready", 200)
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(httpx.post, infer, json=SLEEP, timeout=20) for _ in range(2)]
            time.sleep(0.3)
            server.process.terminate()
            wait_for(server, "/v2/health/ready", 503, 1)
            assert status(server, "/v2/health/live") == 200
            assert [answer.result().status_code for answer in answers] == [200, 200]
        assert server.process.wait(timeout=15) == 0
        assert status(server, "/v2/health/live") == 0
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_in_use_is_one_sentence(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = "--grpc-port" if option == "--http-port" else "--http-port"
        ports = [option, str(port), other, str(free_port())]
        start = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "components.predictor", "no-such-bundle", "--host", "127.0.0.1", *ports],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == f"Port {port} is already in use: stop what listens there or choose another {option}.\n"
    assert time.monotonic() - start < 5


def test_a_damaged_bundle_is_refused_by_name(bundle: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(Path(bundle).parents[2], store)
    damaged = store / "artifacts" / "ModelBundle" / Path(bundle).name
    weights = damaged / "mixture.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)
    server = launch(["-m", "components.predictor"], str(damaged), tmp_path / "log")
    try:
        assert server.process.wait(timeout=60) == 1
    finally:
        server.process.kill()
    lines = server.log.read_text().splitlines()
    assert "mixture.safetensors" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_client_module_and_help_load_nothing_heavy() -> None:
    check = (
        "import sys; import components.core.serving.client, components.core.serving.inference_service, "
        "components.predictor.server; "
        "print([name for name in ('torch', 'kserve', 'grpc', 'fastapi', 'pandas') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "[]\n"
