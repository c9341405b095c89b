"""Servers of benchmarks: processes of this machine, and what they say of themselves."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A server process and its ports."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, grpc_port: int) -> None:
        self.process, self.port, self.grpc_port = process, port, grpc_port

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_seconds(self) -> float:
        """Processor seconds of all its threads since the start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def phases(self) -> dict[str, float]:
        """Mean seconds per request in each phase since the start."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        sums = dict(re.findall(r'mistere_phase_seconds_sum\{phase="(\w+)"\} (\S+)', text))
        counts = dict(re.findall(r'mistere_phase_seconds_count\{phase="(\w+)"\} (\S+)', text))
        return {name: float(total) / max(1.0, float(counts[name])) for name, total in sums.items()}


@contextmanager
def predictor(bundle: str, *options: str) -> Iterator[Running]:
    port, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "mistere.predictor", bundle, "--host", "127.0.0.1", "--http-port", str(port)]
    command += ["--grpc-port", str(grpc_port), "--drain-seconds", "0", *options]
    with running(command, port, "/v2/health/ready") as process:
        yield Running(process, port, grpc_port)


@contextmanager
def running(
    command: list[str], port: int, path: str, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        deadline = time.monotonic() + 120
        while not ready(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(command[:4])} did not start")
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ready(port: int, path: str) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
