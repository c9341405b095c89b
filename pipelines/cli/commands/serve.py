"""``mistere serve``: replaces this process by the predictor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from mistere.artifacts.object_store import LocalStore
from mistere.common.processes.child_environment import child_environment
from mistere.config.deployment import DeploymentConfig
from mistere.serving.deployment import deployed_services, read_deployment


def serve(bundle: str | None, output: Path, host: str, port: int, grpc_port: int) -> NoReturn:
    """Serve a bundle until interrupted; this process becomes the server.

    Args:
        bundle: its location; None for the bundle deployed in ``output``.
        output: the output directory of ``mistere run``.
        host: address to listen on.
        port: REST port.
        grpc_port: gRPC port.
    """
    store = LocalStore(output.resolve() / "store")
    services = deployed_services(store)
    service = services[0] if len(services) == 1 else DeploymentConfig().service
    location = bundle or read_deployment(store, service).bundle_location
    print(f"serving {location}\nREST http://{host}:{port}  gRPC {host}:{grpc_port}  stop with Ctrl-C", flush=True)
    command = [sys.executable, "-m", "mistere.predictor", location, "--model-name", service]
    command += ["--host", host, "--http-port", str(port), "--grpc-port", str(grpc_port)]
    os.execve(sys.executable, command, child_environment())  # noqa: S606  (no shell is wanted: this process becomes the server)
