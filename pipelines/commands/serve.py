"""``mistere serve``: the predictor in this process's place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from components.core.config.deployment import DeploymentConfig
from components.core.deployment import read_deployment
from components.core.store import LocalStore


def serve(bundle: str | None, output: Path, host: str, port: int, grpc_port: int) -> int:
    """Serve a bundle until interrupted.

    Args:
        bundle: its place; None for the one that is deployed in ``output``.
        output: the folder of ``mistere run``.
        host: address to listen on.
        port: REST port.
        grpc_port: gRPC port.

    Returns:
        The server's exit code.
    """
    service = DeploymentConfig().service
    place = bundle or read_deployment(LocalStore(output.resolve() / "store"), service).bundle_location
    print(f"serving {place}\nREST http://{host}:{port}  gRPC {host}:{grpc_port}  stop with Ctrl-C", flush=True)
    command = [sys.executable, "-m", "components.predictor", place, "--model-name", service]
    command += ["--host", host, "--http-port", str(port), "--grpc-port", str(grpc_port)]
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()
