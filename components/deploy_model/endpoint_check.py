"""A held-out dialogue through a predictor that runs here, by REST and gRPC, against the offline evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.serving.client import EndpointError
from mistere.serving.golden_dialogue import GoldenDialogue
from mistere.serving.local_predictor import last_line, local_predictor


def check_endpoint(
    config: DeploymentConfig, bundle: ArtifactHandle[ModelBundle], location: str, tell: Callable[[str], object]
) -> str:
    """Serve the bundle, ask it the example dialogue that it carries, compare, stop it.

    Args:
        config: time until ready and tolerance.
        bundle: the bundle.
        location: where it lies in its store.
        tell: is told what is being waited for.

    Returns:
        A sentence on what was found.

    Raises:
        MistereError: the predictor did not become ready, did not answer, or answered something else; or the bundle holds no
            dialogue to ask.
    """
    golden = GoldenDialogue.of(bundle, config)
    with (
        tempfile.TemporaryDirectory() as scratch,
        local_predictor(location, config.service, Path(scratch) / "log") as (client, wait_ready),
    ):
        tell("waiting for the predictor")
        try:
            wait_ready(config.ready_timeout)
            return golden.put_to(client)
        except EndpointError as error:
            said = last_line(Path(scratch) / "log")
            raise MistereError(f"the smoke test failed, the champion stays: {error}{said}") from error
