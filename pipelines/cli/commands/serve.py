"""``mistere serve``: replaces this process by the predictor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from mistere.common.processes.child_environment import child_environment
from mistere.serving.deployment import service_and_bundle


def serve(bundle: str | None, output: Path, host: str, port: int, grpc_port: int) -> NoReturn:
    """Serve a bundle until interrupted; this process becomes the server.

    Args:
        bundle: its location; None for the bundle deployed in ``output``.
        output: the output directory of ``mistere run``.
        host: address to listen on.
        port: REST port.
        grpc_port: gRPC port.
    """
    service, location = service_and_bundle(output, bundle)
    print(f"serving {location}\nREST http://{host}:{port}  gRPC {host}:{grpc_port}  stop with Ctrl-C", flush=True)
    command = [sys.executable, "-m", "mistere.predictor", location, "--model-name", service]
    command += ["--host", host, "--http-port", str(port), "--grpc-port", str(grpc_port)]
    os.execve(sys.executable, command, child_environment())  # noqa: S606  (no shell is wanted: this process becomes the server)
