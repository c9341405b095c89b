"""``mistere serve``: serves a bundle in this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.common.errors import ExitCode, UsageError
from mistere.config.predictor import BUNDLE_STORE, PredictorConfig
from mistere.config.predictor_options import resolve
from mistere.serving.deployment import service_and_bundle


def serve(
    bundle: str | None,
    output: Path,
    host: str,
    port: int,
    grpc_port: int,
    options: Mapping[str, Any],
    *,
    onnx: Path | None = None,
    traffic: bool = False,
) -> int:
    """Serve a bundle or an exported model until interrupted.

    Args:
        bundle: its location; None for the bundle deployed in ``output``.
        output: the output directory of ``mistere run``.
        host: address to listen on.
        port: REST port.
        grpc_port: gRPC port.
        options: the given options of the predictor, by name; the environment sets others.
        onnx: folder of an exported model, which is served instead of a bundle.
        traffic: write statistics of the answers to the bundle's store, for ``mistere monitor``.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        UsageError: nothing is deployed, the location is not that of a bundle, the ports are equal, or an option is wrong.
        MistereError: a port is in use, or the bundle is missing or damaged.
    """
    if port == grpc_port:
        raise UsageError(f"--port and --grpc-port are both {port}: REST and gRPC need a port each.")
    given = {"traffic_store": BUNDLE_STORE, **options} if traffic else options
    predictor = resolve(given, os.environ)
    if onnx is not None:
        service, location = _exported(onnx, bundle, predictor)
    else:
        service, location = service_and_bundle(output, bundle)
        root, digest = split_bundle_location(location, ", or leave it out to serve the deployed one")
    from mistere.predictor.server import serve as serve_until_stopped
    from mistere.predictor.settings import ServerSettings

    def show_ready() -> None:
        name = f"[{host}]" if ":" in host else host
        print(f"serving {location}\nREST http://{name}:{port}  gRPC {name}:{grpc_port}  stop with Ctrl-C", flush=True)

    print(f"loading {location}", flush=True)
    if onnx is None:
        open_artifact(open_store(root), ModelBundle, digest)  # before the slow imports
    settings = ServerSettings(
        bundle=location,
        host=host,
        http_port=port,
        grpc_port=grpc_port,
        model_name=service,
        options=predictor,
        http_option="--port",
    )
    stopped_by = serve_until_stopped(settings, on_ready=show_ready, load_first=True)
    return int(ExitCode.INTERRUPTED if stopped_by == signal.SIGINT else ExitCode.DEPLOYED)


def _exported(folder: Path, bundle: str | None, options: PredictorConfig) -> tuple[str, str]:
    """The name and the location under which an exported model is served.

    Raises:
        UsageError: a bundle is named too, there is no exported model, or an option is for bundles.
        ArtifactError: the folder is damaged.
    """
    from mistere.model.onnx.loading import verify_onnx
    from mistere.predictor.server import check_onnx_options

    if bundle is not None:
        raise UsageError("name either a bundle or --onnx DIR: a server serves one model.")
    check_onnx_options(options)
    return verify_onnx(folder).manifest.bundle.name, str(folder.resolve())
