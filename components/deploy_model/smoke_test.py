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
from dataclasses import replace
from pathlib import Path

import numpy as np

from components.core.artifact_io import Opened
from components.core.audio import encode_flac, listen
from components.core.config.deployment import DeploymentConfig
from components.core.dataset import Utterance
from components.core.errors import MistereError
from components.core.manifests import EvaluationReport, ModelBundle, UtteranceSet
from components.core.predictions import read_predictions
from components.core.processes import die_with_parent
from components.core.serving.client import DialogueClient, EndpointError, EndpointPrediction
from components.core.stage import Step
from components.core.utterances import UtteranceReader

_FEW_UTTERANCES = 16
_MOST_UTTERANCES, _MOST_SECONDS, _MOST_BYTES = 128, 30.0, 8 << 20
_ACCEPTED_STARTS = (b"RIFF", b"RF64", b"fLaC", b"OggS")
_STOP_SECONDS = 30


def smoke_test(
    config: DeploymentConfig,
    step: Step,
    reference: UtteranceSet,
    report: Opened[EvaluationReport],
    bundle: ModelBundle,
    location: str,
) -> str:
    """Serve the bundle, ask it, compare, stop it.

    Args:
        config: time until ready and tolerance.
        step: this execution.
        reference: the dataset.
        report: the offline evaluation with its predictions.
        bundle: the bundle's manifest.
        location: where it lies.

    Returns:
        A sentence on what was found.

    Raises:
        MistereError: the predictor did not become ready, did not answer, or answered something else.
    """
    dialogue, expected = _held_out(reference, report)
    with (
        tempfile.TemporaryDirectory() as scratch,
        _predictor(config, location, Path(scratch) / "log") as (client, wait_ready),
    ):
        step.progress("waiting for the predictor")
        try:
            wait_ready(config.ready_timeout)
            answers = {"REST": client.predict_rest(dialogue), "gRPC": client.predict_grpc(dialogue)}
        except EndpointError as error:
            log = (Path(scratch) / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = f" Its last line: {log[-1][:200]}" if log else ""
            raise MistereError(f"the smoke test failed, the champion stays: {error}{said}") from error
        worst = max(_difference(protocol, answer, expected) for protocol, answer in answers.items())
    exact = all(encoder.precision == "float32" for encoder in bundle.encoders.values())
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


def _held_out(reference: UtteranceSet, report: Opened[EvaluationReport]) -> tuple[list[Utterance], np.ndarray]:
    """A test dialogue that the endpoint takes, and its offline probabilities ``[n, C]``.

    Raises:
        MistereError: every test dialogue is over one of the endpoint's limits.
    """
    predictions = read_predictions(report.file("predictions.parquet"))
    dialogue: list[Utterance] = []
    for candidate in UtteranceReader(reference, ("test",)).dialogues("test"):
        sendable = _as_sent(candidate)
        if sendable is not None and (not dialogue or len(sendable) < len(dialogue)):
            dialogue = sendable
        if 0 < len(dialogue) <= _FEW_UTTERANCES:
            break
    if not dialogue:
        raise MistereError(
            f"no test dialogue can be sent to the endpoint (at most {_MOST_UTTERANCES} utterances of {_MOST_SECONDS:g} s "
            f"and {_MOST_BYTES >> 20} MiB in all): the smoke test needs one, so the champion stays."
        )
    rows = [index for index, name in enumerate(predictions.dialogues) if name == dialogue[0].dialogue_id]
    return dialogue, predictions.probabilities[rows]


def _as_sent(dialogue: list[Utterance]) -> list[Utterance] | None:
    """The dialogue in codecs that the endpoint takes, or None where it is over a limit."""
    if len(dialogue) > _MOST_UTTERANCES:
        return None
    sent = []
    for utterance in dialogue:
        audio = utterance.audio
        if audio:
            heard = listen(audio, _MOST_SECONDS)
            if len(heard.wave) > _MOST_SECONDS * heard.rate:
                return None
            if not audio.startswith(_ACCEPTED_STARTS) or heard.channels > 2:
                audio = encode_flac(heard.wave, heard.rate)
        sent.append(replace(utterance, audio=audio))
    size = sum(len(utterance.audio or b"") * 4 // 3 + len((utterance.text or "").encode()) + 64 for utterance in sent)
    return sent if size < _MOST_BYTES else None


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
