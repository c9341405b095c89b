"""Run the predictor as a child process on free ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.parent_death import die_with_parent
from mistere.serving.client import DialogueClient, EndpointError

_STOP_SECONDS = 30


@contextmanager
def local_predictor(location: str, service: str, log: Path) -> Iterator[tuple[DialogueClient, Callable[[float], None]]]:
    """Serve a bundle on this machine until the context ends, or this process does.

    Args:
        location: location of the bundle.
        service: the model's name.
        log: file for the output of the process.

    Yields:
        A client, and a function that waits the given seconds until the predictor is ready. The function raises an EndpointError
        if the process ends or is not ready in time.
    """
    http, grpc = free_ports(2)
    command = [sys.executable, "-m", "mistere.predictor", location]
    command += ["--host", "127.0.0.1", "--http-port", str(http), "--grpc-port", str(grpc)]
    command += ["--model-name", service, "--drain-seconds", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            preexec_fn=die_with_parent,
        )
    client = DialogueClient(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}", service)

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
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a predictor; kill it if it does not end by itself."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_line(log: Path) -> str:
    """The last line of a predictor's output, as the end of an error message; empty without output."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f" Its last line: {lines[-1][:200]}" if lines else ""


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [int(bound.getsockname()[1]) for bound in sockets]
    finally:
        for bound in sockets:
            bound.close()
