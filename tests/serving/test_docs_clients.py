"""The example clients of the guide about serving, run unchanged against a server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import LABELS, ROOT, Server

CALLS = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", CALLS, re.DOTALL)


def with_ports(server: Server, program: str) -> str:
    """Replace the ports in the program with those of the server."""
    return program.replace("localhost:8080", f"127.0.0.1:{server.http_port}").replace(
        "localhost:8081", f"127.0.0.1:{server.grpc_port}"
    )


def test_the_docs_show_clients_for_requests_kserve_and_grpc() -> None:
    assert ["import requests" in PROGRAMS[0], "InferenceRESTClient" in PROGRAMS[1], "import grpc" in PROGRAMS[2]] == [
        True
    ] * 3


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.long), 2])
def test_the_client_prints_labels(server: Server, number: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", with_ports(server, PROGRAMS[number])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sum(result.stdout.count(label) for label in LABELS) == 2, result.stdout


def test_the_curl_command_succeeds(server: Server, tmp_path: Path) -> None:
    script, *others = re.findall(r"```bash\n(curl.*?)```", CALLS, re.DOTALL)
    (explained,) = [other for other in others if '"explain"' in other]
    others.remove(explained)
    assert all(any(own in other for own in ("face.jpg", "DIGEST", '"predict": false')) for other in others)
    for command, field in ((script, '"expert_probabilities"'), (explained, '"modality_contributions"')):
        result = subprocess.run(
            ["bash", "-e", "-c", with_ports(server, command)], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, result.stderr
        assert '"predictions"' in result.stdout and field in result.stdout
