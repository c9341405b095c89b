"""Start and stop: errors at the start, readiness, and no lost requests at the stop."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from mistere.serving.client import DialogueClient
from tests.local.servers import free_port
from tests.serving.conftest import ROOT, Server, Utterance, launch, make_bundle, wait_for_depth
from tests.serving.faulty_server import HOLD

FAULTY = [str(Path(__file__).with_name("faulty_server.py"))]


def status(server: Server, path: str) -> int:
    try:
        return httpx.get(server.url + path, timeout=30).status_code
    except httpx.HTTPError:
        return 0


def wait_for(server: Server, path: str, code: int, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while status(server, path) != code:
        assert time.monotonic() < deadline and server.process.poll() is None, server.log.read_text()
        time.sleep(0.02)


@pytest.mark.long
def test_not_ready_while_loading_then_drained_without_loss(tmp_path: Path) -> None:
    gate, release = tmp_path / "loaded", tmp_path / "release"
    held_request = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [f"{HOLD}{release}"]}]}
    server = launch(FAULTY, str(gate), tmp_path / "log", "--drain-seconds", "5")
    infer = f"{server.url}/v2/models/mistere/infer"
    try:
        wait_for(server, "/v2/health/live", 200)
        assert status(server, "/v2/health/ready") == 503
        early = httpx.post(infer, json=held_request, timeout=60)
        assert early.status_code == 503
        assert early.json() == {"error": "The model is not ready."}
        gate.touch()
        wait_for(server, "/v2/health/ready", 200)
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(httpx.post, infer, json=held_request, timeout=120) for _ in range(2)]
            wait_for_depth(server, 2)
            server.process.terminate()
            wait_for(server, "/v2/health/ready", 503)
            assert status(server, "/v2/health/live") == 200
            release.touch()
            assert [answer.result().status_code for answer in answers] == [200, 200]
        assert server.process.wait(timeout=120) == 0
        assert status(server, "/v2/health/live") == 0
    finally:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_in_use_is_reported_in_one_sentence(option: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        other_option = "--grpc-port" if option == "--http-port" else "--http-port"
        ports = [option, str(port), other_option, str(free_port())]
        result = subprocess.run(
            [sys.executable, "-m", "mistere.predictor", "no-such-bundle", "--host", "127.0.0.1", *ports],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    assert result.returncode == 1
    assert (
        result.stderr
        == f"Port {port} is already in use: stop the process that listens there, or choose another {option}.\n"
    )


@pytest.mark.long
def test_a_damaged_bundle_is_rejected_by_name(bundle: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(Path(bundle).parents[2], store)
    damaged = store / "artifacts" / "ModelBundle" / Path(bundle).name
    weights = damaged / "mixture.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)
    server = launch(["-m", "mistere.predictor"], str(damaged), tmp_path / "log")
    try:
        assert server.process.wait(timeout=180) == 1
    finally:
        server.process.kill()
    lines = server.log.read_text().splitlines()
    assert "mixture.safetensors" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_client_module_and_help_load_nothing_heavy() -> None:
    check = (
        "import sys; import mistere.serving.client, mistere.serving.kserve.inference_service, "
        "mistere.predictor.server; "
        "print([name for name in ('torch', 'kserve', 'grpc', 'fastapi', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True, timeout=180
    )
    assert result.stdout == "[]\n"


@pytest.mark.long
def test_a_killed_server_restarts_without_manual_steps_and_replicas_agree(
    bundle: str, tmp_path: Path, dialogue: list[Utterance]
) -> None:
    first = launch(["-m", "mistere.predictor"], bundle, tmp_path / "first")
    second = launch(["-m", "mistere.predictor"], bundle, tmp_path / "second")
    restarted = None
    try:
        for server in (first, second):
            server.client.wait_ready(300)
        before = first.client.predict_rest(dialogue).probabilities
        assert np.abs(before - second.client.predict_grpc(dialogue).probabilities).max() < 1e-6
        first.process.kill()
        first.process.wait()
        ports = ("--http-port", str(first.http_port), "--grpc-port", str(first.grpc_port))
        restarted = launch(["-m", "mistere.predictor"], bundle, tmp_path / "again", *ports)
        DialogueClient(first.url).wait_ready(300)
        assert np.abs(before - DialogueClient(first.url).predict_rest(dialogue).probabilities).max() < 1e-6
    finally:
        for server in filter(None, (first, second, restarted)):
            server.process.kill()
            server.process.wait()


@pytest.mark.long
def test_a_bundle_replaced_on_disk_is_loaded_at_the_next_start(tmp_path: Path, dialogue: list[Utterance]) -> None:
    bundle = make_bundle(tmp_path / "made")
    server = launch(["-m", "mistere.predictor"], bundle, tmp_path / "log")
    try:
        server.client.wait_ready(300)
        before = server.client.predict_rest(dialogue).probabilities
        for file in Path(bundle).rglob("*.safetensors"):
            file.write_bytes(bytes(file.stat().st_size))
        uncached = [
            Utterance(f"{utterance.text} Indeed.", utterance.audio) for utterance in dialogue
        ]  # so that no vector comes from the cache
        assert np.isfinite(server.client.predict_rest(uncached).probabilities).all()
        assert np.array_equal(server.client.predict_rest(dialogue).probabilities, before)
    finally:
        assert server.terminate() == 0


def fill_bucket(bucket: str, root: Path) -> None:
    """Upload ``root/store`` through another moto server, since all servers of a process share their objects."""
    import boto3
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket=bucket)
        for file in (root / "store").rglob("*"):
            if file.is_file() and not file.name.startswith("."):
                client.upload_file(str(file), bucket, file.relative_to(root).as_posix())
    finally:
        server.stop()


@pytest.mark.long
def test_the_server_is_not_ready_until_the_store_is_reachable(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.server import ThreadedMotoServer

    port = free_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_MAX_ATTEMPTS", "1"),
    ):
        monkeypatch.setenv(name, value)
    location = f"s3://bundles/store/{bundle.partition('/store/')[2]}"
    server = launch(["-m", "mistere.predictor"], location, tmp_path / "log")
    store = None
    try:
        wait_for(server, "/v2/health/live", 200)
        deadline = time.monotonic() + 180
        while "Retrying" not in server.log.read_text():
            assert time.monotonic() < deadline and server.process.poll() is None, server.log.read_text()
            time.sleep(0.1)
        assert status(server, "/v2/health/ready") == 503 and "does not answer" in server.log.read_text()
        fill_bucket("bundles", Path(bundle.partition("/store/")[0]))
        store = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
        store.start()
        wait_for(server, "/v2/health/ready", 200)
        assert server.client.predict_rest([Utterance("Hello?")]).probabilities.shape == (1, 4)
    finally:
        server.process.kill()
        server.process.wait()
        if store is not None:
            store.stop()


@pytest.mark.long
def test_serve_reports_a_base_model_that_does_not_load_before_it_starts_the_server(bundle: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(Path(bundle).parents[2], store)
    base = next((store / "artifacts" / "BaseEncoder").iterdir())
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    location = store / "artifacts" / "ModelBundle" / Path(bundle).name
    ports = ["--port", str(free_port()), "--grpc-port", str(free_port())]
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli.app", "serve", str(location), *ports],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, "MISTERE_CACHE": str(tmp_path / "cache")},
    )
    assert result.returncode == 1
    assert result.stdout == f"loading {location}\n"
    assert len(result.stderr.splitlines()) == 1 and "model.safetensors" in result.stderr
