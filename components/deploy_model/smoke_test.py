"""A held-out dialogue through the running predictor, by REST and gRPC, against the offline evaluation."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from components.core.artifact_io import Opened
from components.core.config.deployment import DeploymentConfig
from components.core.dataset import Utterance
from components.core.errors import MistereError
from components.core.manifests import EvaluationReport, UtteranceSet
from components.core.predictions import read_predictions
from components.core.serving.client import DialogueClient, EndpointError, EndpointPrediction
from components.core.steps import Step
from components.core.utterances import UtteranceReader

_MOST_UTTERANCES = 16
_STOP_SECONDS = 30


def smoke_test(
    config: DeploymentConfig, step: Step, reference: UtteranceSet, report: Opened[EvaluationReport], location: str
) -> str:
    """Serve the bundle, ask it, compare, stop it.

    Args:
        config: time until ready and tolerance.
        step: this execution.
        reference: the dataset.
        report: the offline evaluation with its predictions.
        location: the bundle.

    Returns:
        A sentence on what was found.

    Raises:
        MistereError: the predictor did not become ready, did not answer, or answered something else.
    """
    dialogue, expected = _held_out(reference, report)
    with tempfile.TemporaryDirectory() as scratch, _predictor(config, location, Path(scratch) / "log") as client:
        step.progress("waiting for the predictor")
        try:
            client.wait_ready(config.ready_timeout)
            answers = {"REST": client.predict_rest(dialogue), "gRPC": client.predict_grpc(dialogue)}
        except EndpointError as error:
            log = (Path(scratch) / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = f" Its last line: {log[-1][:200]}" if log else ""
            raise MistereError(f"the smoke test failed, the champion stays: {error}{said}") from error
        worst = max(_difference(protocol, answer, expected) for protocol, answer in answers.items())
    if not worst <= config.tolerance:
        raise MistereError(
            f"the smoke test failed, the champion stays: the endpoint's probabilities differ from the offline "
            f"evaluation's by {worst:.2g}, allowed are {config.tolerance:.2g}."
        )
    return (
        f"The predictor answered a held-out dialogue of {len(dialogue)} utterances by REST and gRPC; "
        f"largest difference from the offline evaluation: {worst:.1e}."
    )


def _held_out(reference: UtteranceSet, report: Opened[EvaluationReport]) -> tuple[list[Utterance], np.ndarray]:
    """A test dialogue and its offline probabilities ``[n, C]``; the first that is not too long."""
    predictions = read_predictions(report.file("predictions.parquet"))
    dialogue: list[Utterance] = []
    for candidate in UtteranceReader(reference, ("test",)).dialogues("test"):
        if not dialogue or len(candidate) < len(dialogue):
            dialogue = candidate
        if len(dialogue) <= _MOST_UTTERANCES:
            break
    rows = [index for index, name in enumerate(predictions.dialogues) if name == dialogue[0].dialogue_id]
    return dialogue, predictions.probabilities[rows]


def _difference(protocol: str, answer: EndpointPrediction, expected: np.ndarray) -> float:
    if answer.probabilities.shape != expected.shape:
        raise MistereError(
            f"the smoke test failed, the champion stays: by {protocol} the endpoint answered "
            f"{answer.probabilities.shape} probabilities, expected {expected.shape}."
        )
    return float(np.abs(answer.probabilities - expected).max())


@contextmanager
def _predictor(config: DeploymentConfig, location: str, log: Path) -> Iterator[DialogueClient]:
    """The predictor as a process of its own on two free ports, stopped at the end."""
    http, grpc = _free_ports(2)
    command = [sys.executable, "-m", "components.predictor", location]
    command += ["--host", "127.0.0.1", "--http-port", str(http), "--grpc-port", str(grpc)]
    command += ["--model-name", config.service, "--drain-seconds", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ)
        )
    try:
        yield DialogueClient(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", config.service)
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
