"""The deployed bundle, exported as ONNX graphs from the store and served on this machine, outside of the images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from mistere.common.errors import MistereError
from mistere.common.paths import PROJECT_ROOT
from mistere.model.onnx.export import TOLERANCE
from mistere.serving.client import DialogueClient
from mistere.serving.example_dialogue import Example
from tests.local.servers import free_port

_READY_SECONDS = 120.0


def serve_export(location: str, example: Example, folder: Path) -> str:
    """Export a bundle, serve the export as `mistere serve --onnx`, and compare its answers with the offline evaluation's.

    Args:
        location: of the bundle.
        example: its example dialogue.
        folder: for the export.

    Raises:
        MistereError: the answers differ.
    """
    command = [sys.executable, "-m", "mistere"]
    target = folder / "onnx"
    subprocess.run([*command, "export", str(target), "--model", location], cwd=PROJECT_ROOT, check=True)
    http, grpc = free_port(), free_port()
    ports = ["--port", str(http), "--grpc-port", str(grpc)]
    server = subprocess.Popen([*command, "serve", "--onnx", str(target), *ports], cwd=PROJECT_ROOT)
    try:
        client = DialogueClient(f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}")
        client.wait_ready(_READY_SECONDS)
        answers = [client.predict_rest(example.turns), client.predict_grpc(example.turns)]
    finally:
        server.terminate()
        code = server.wait()
    worst = max(float(np.abs(answer.probabilities - example.expected).max()) for answer in answers)
    if not worst <= TOLERANCE:
        raise MistereError(f"the exported model's answer differs by {worst:.2g} from the offline evaluation's.")
    if code:
        raise MistereError(f"the server of the exported model ended with exit code {code} after SIGTERM.")
    return f"the same bundle as ONNX graphs answered by REST and gRPC; largest difference from the offline evaluation {worst:.1e}"
