"""A held-out dialogue through the running predictor, by REST and gRPC, against the offline evaluation."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from components.core.artifact_io import Opened
from components.core.config.deployment import DeploymentConfig
from components.core.errors import MistereError
from components.core.example_dialogue import read_example
from components.core.manifests import ModelBundle
from components.core.processes import die_with_parent
from components.core.serving.client import DialogueClient, EndpointError, EndpointPrediction

_STOP_SECONDS = 30


def smoke_test(
    config: DeploymentConfig, bundle: Opened[ModelBundle], location: str, tell: Callable[[str], object]
) -> str:
    """Serve the bundle, ask it the example dialogue that it carries, compare, stop it.

    Args:
        config: time until ready and tolerance.
        bundle: the bundle.
        location: where it lies in its store.
        tell: is told what is being waited for.

    Returns:
        A sentence on what was found.

    Raises:
        MistereError: the predictor did not become ready, did not answer, or answered something else; or the bundle holds no
            dialogue to ask.
    """
    example = read_example(bundle.path)
    if example is None:
        raise MistereError(
            "the bundle holds no example dialogue, for every test dialogue is over a limit of the endpoint (128 utterances of "
            "30 s, 8 MiB in all) or does not decode: the smoke test needs one, so the champion stays."
        )
    dialogue, expected = example.dialogue, example.expected
    with (
        tempfile.TemporaryDirectory() as scratch,
        _predictor(config, location, Path(scratch) / "log") as (client, wait_ready),
    ):
        tell("waiting for the predictor")
        try:
            wait_ready(config.ready_timeout)
            answers = {"REST": client.predict_rest(dialogue), "gRPC": client.predict_grpc(dialogue)}
        except EndpointError as error:
            log = (Path(scratch) / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = f" Its last line: {log[-1][:200]}" if log else ""
            raise MistereError(f"the smoke test failed, the champion stays: {error}{said}") from error
        worst = max(_difference(protocol, answer, expected) for protocol, answer in answers.items())
    exact = all(encoder.precision == "float32" for encoder in bundle.manifest.encoders.values())
    allowed = config.tolerance if exact else max(config.tolerance, config.half_tolerance)
    if not worst <= allowed:
        raise MistereError(
            f"the smoke test failed, the champion stays: the endpoint's probabilities differ from the offline "
            f"evaluation's by {worst:.2g}, allowed are {allowed:.2g}."
        )
    return (
        f"The predictor answered a held-out dialogue of {len(dialogue)} utterances by REST and gRPC; "
        f"largest difference from the offline evaluation: {worst:.1e}."
    )


def _difference(protocol: str, answer: EndpointPrediction, expected: np.ndarray) -> float:
    if answer.probabilities.shape != expected.shape:
        raise MistereError(
            f"the smoke test failed, the champion stays: by {protocol} the endpoint answered "
            f"{answer.probabilities.shape} probabilities, expected {expected.shape}."
        )
    return float(np.abs(answer.probabilities - expected).max())


@contextmanager
def _predictor(
    config: DeploymentConfig, location: str, log: Path
) -> Iterator[tuple[DialogueClient, Callable[[float], None]]]:
    """The predictor as a process of its own on two free ports, stopped at the end; and how to wait for it."""
    http, grpc = _free_ports(2)
    command = [sys.executable, "-m", "components.predictor", location]
    command += ["--host", "127.0.0.1", "--http-port", str(http), "--grpc-port", str(grpc)]
    command += ["--model-name", config.service, "--drain-seconds", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(os.environ),
            preexec_fn=die_with_parent,
        )
    client = DialogueClient(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", config.service)

    def wait_ready(timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                return client.wait_ready(0.5)
            except EndpointError:
                if process.poll() is not None:
                    raise EndpointError(f"the predictor ended with exit code {process.returncode}.") from None
                if time.monotonic() > deadline:
                    raise

    try:
        yield client, wait_ready
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
