"""Smoke test of a bundle in a local predictor, by REST and gRPC."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.serving.client import EndpointError
from mistere.serving.example_check import ExampleCheck
from mistere.serving.local_predictor import last_line, local_predictor


def check_endpoint(
    config: DeploymentConfig, bundle: ArtifactHandle[ModelBundle], location: str, on_status: Callable[[str], object]
) -> str:
    """Serve the bundle, send it its example dialogue, compare the answers with the offline evaluation, and stop.

    Args:
        config: time until ready, and tolerance.
        bundle: the bundle.
        location: location of the bundle in its store.
        on_status: receives what is being waited for.

    Returns:
        The result in one sentence.

    Raises:
        MistereError: the predictor did not become ready, did not answer, or answered something else; or the bundle has no
            example dialogue.
    """
    check = ExampleCheck.of(bundle, config)
    with (
        tempfile.TemporaryDirectory() as scratch,
        local_predictor(location, config.service, Path(scratch) / "log") as (client, wait_ready),
    ):
        on_status("waiting for the predictor")
        try:
            wait_ready(config.ready_timeout)
            return check.run(client)
        except EndpointError as error:
            reason = last_line(Path(scratch) / "log")
            raise MistereError(f"the smoke test failed, the champion stays: {error}{reason}") from error
