"""Start a server: bind the ports, then import the slow packages, then load the bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.onnx_manifest import is_exported
from mistere.common.errors import ExitCode, MistereError, UsageError
from mistere.common.processes.standard_streams import guard_streams
from mistere.config.predictor import BUNDLE_STORE, PredictorConfig
from mistere.kubernetes.secret_keys import use_storage_variables
from mistere.predictor.settings import ServerSettings, parse_arguments, reserve_port

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel

    LoadBundle = Callable[[str], EmotionModel]

_SWITCH_SECONDS = 1e-4
"""The GIL's switch interval, seconds.

A batch in the worker thread takes the GIL again after each of its hundreds of torch operations. With Python's default of 5 ms it
would wait that long each time while the event loop reads another request. ``mistere bench serving_speed`` (part ``throughput``)
measures the effect. Delete it when the predictor runs on a Python without the GIL.
"""


def serve(
    settings: ServerSettings,
    load_bundle: LoadBundle | None = None,
    on_ready: Callable[[], object] | None = None,
    *,
    load_first: bool = False,
) -> int:
    """Serve a bundle until SIGTERM or SIGINT.

    Args:
        settings: the server's settings.
        load_bundle: location → model; by default it opens and verifies a ModelBundle.
        on_ready: called once, when the bundle is loaded and requests are answered.
        load_first: load before the server starts, so that an error is not among the server's messages. Health checks are answered
            only afterwards.

    Returns:
        The number of the signal that stopped the server; 0 if it ended without one.

    Raises:
        MistereError: a port is taken, or the bundle is missing or damaged.
    """
    http = reserve_port(settings.host, settings.http_port, settings.http_option)
    grpc = reserve_port(settings.host, settings.grpc_port, "--grpc-port")
    from mistere.predictor.model import EmotionPredictor
    from mistere.predictor.model_server import PredictorServer

    sys.setswitchinterval(_SWITCH_SECONDS)
    load = load_bundle or partial(_load_verified, settings.options)
    if load_first:
        loaded = load(settings.bundle)
        load = lambda _: loaded  # noqa: E731
    server = PredictorServer(settings, http, grpc, on_ready)
    server.start([EmotionPredictor(settings, load)])
    return server.stopped_by


def _load_verified(options: PredictorConfig, location: str) -> EmotionModel:
    """Load the bundle or exported model; in the loading thread, so that health checks are answered meanwhile."""
    if is_exported(location):
        from mistere.predictor.warm_up import open_exported

        check_onnx_options(options)
        return open_exported(Path(location), options.threads)
    import torch

    from mistere.common.processes.threads import usable_cores
    from mistere.model.encoders.device import choose_device
    from mistere.model.inference import load_bundle

    choose_device(options.device, "--device")  # before the bundle is downloaded
    torch.set_num_threads(options.threads or usable_cores())
    return load_bundle(location, int8=options.int8, device=options.device, dtype=options.dtype)


def check_onnx_options(options: PredictorConfig) -> None:
    """Refuse options that an exported model does not have.

    Raises:
        UsageError: it is one of them.
    """
    if options.int8:
        raise UsageError(
            "--int8 is for bundles: an exported model is quantised when it is written, `mistere export --int8`."
        )
    if options.device == "cuda" or options.dtype != "float32":
        raise UsageError("--device and --dtype are for bundles: an exported model is computed on the CPU.")
    stores = {
        "--traffic-store": options.traffic_store,
        "--sample-store": options.sample_store if options.sample_share else "",
        "--request-log-store": options.request_log_store if options.request_log_share else "",
    }
    for option, store in stores.items():
        if store == BUNDLE_STORE:
            raise UsageError(
                f"an exported model has no store for statistics, samples or the log of requests: name one with {option}."
            )


def main(arguments: Sequence[str] | None = None, load_bundle: LoadBundle | None = None) -> int:
    """Run ``python -m mistere.predictor``; returns exit code 0 after SIGTERM, else the error's."""
    use_storage_variables()
    guard_streams()
    try:
        serve(parse_arguments(arguments), load_bundle)
    except MistereError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    return int(ExitCode.DEPLOYED)
