"""``mistere serve``: serves a bundle in this process."""

from __future__ import annotations

import signal
from pathlib import Path

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.errors import ExitCode, UsageError
from mistere.serving.deployment import service_and_bundle


def serve(bundle: str | None, output: Path, host: str, port: int, grpc_port: int, *, traffic: bool = False) -> int:
    """Serve a bundle until interrupted.

    Args:
        bundle: its location; None for the bundle deployed in ``output``.
        output: the output directory of ``mistere run``.
        host: address to listen on.
        port: REST port.
        grpc_port: gRPC port.
        traffic: write statistics of the answers to the bundle's store, for ``mistere monitor``.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        UsageError: nothing is deployed, the location is not that of a bundle, or the ports are equal.
        MistereError: a port is in use, or the bundle is missing or damaged.
    """
    if port == grpc_port:
        raise UsageError(f"--port and --grpc-port are both {port}: REST and gRPC need a port each.")
    service, location = service_and_bundle(output, bundle)
    root, digest = split_bundle_location(location, ", or leave it out to serve the deployed one")
    from mistere.predictor.server import serve as serve_until_stopped
    from mistere.predictor.settings import BUNDLE_STORE, ServerSettings

    def show_ready() -> None:
        name = f"[{host}]" if ":" in host else host
        print(f"serving {location}\nREST http://{name}:{port}  gRPC {name}:{grpc_port}  stop with Ctrl-C", flush=True)

    print(f"loading {location}", flush=True)
    open_artifact(open_store(root), ModelBundle, digest)  # before the server starts, whose log would hide the reason
    settings = ServerSettings(
        bundle=location,
        host=host,
        http_port=port,
        grpc_port=grpc_port,
        model_name=service,
        traffic_store=BUNDLE_STORE if traffic else "",
        http_option="--port",
    )
    stopped_by = serve_until_stopped(settings, on_ready=show_ready)
    return int(ExitCode.INTERRUPTED if stopped_by == signal.SIGINT else ExitCode.DEPLOYED)
