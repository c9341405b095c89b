"""A held-out dialogue through the running predictor, by REST and gRPC, against the offline evaluation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from components.core.artifact_io import Opened
from components.core.config.deployment import DeploymentConfig
from components.core.errors import MistereError
from components.core.example_dialogue import read_example
from components.core.manifests import ModelBundle
from components.core.serving.client import EndpointError, EndpointPrediction
from components.core.serving.local_predictor import last_line, local_predictor


def smoke_test(
    config: DeploymentConfig, bundle: Opened[ModelBundle], location: str, tell: Callable[[str], object]
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
    example = read_example(bundle.path)
    if example is None:
        raise MistereError(
            "the bundle holds no example dialogue, for every test dialogue is over a limit of the endpoint (128 utterances of "
            "30 s, 8 MiB in all) or does not decode: the smoke test needs one, so the champion stays."
        )
    dialogue, expected = example.dialogue, example.expected
    with (
        tempfile.TemporaryDirectory() as scratch,
        local_predictor(location, config.service, Path(scratch) / "log") as (client, wait_ready),
    ):
        tell("waiting for the predictor")
        try:
            wait_ready(config.ready_timeout)
            answers = {"REST": client.predict_rest(dialogue), "gRPC": client.predict_grpc(dialogue)}
        except EndpointError as error:
            said = last_line(Path(scratch) / "log")
            raise MistereError(f"the smoke test failed, the champion stays: {error}{said}") from error
        worst = max(_difference(protocol, answer, expected) for protocol, answer in answers.items())
    exact = all(encoder.precision == "float32" for encoder in bundle.manifest.encoders.values())
    allowed = config.tolerance if exact else max(config.tolerance, config.half_tolerance)
    if not worst <= allowed:
        raise MistereError(
            f"the smoke test failed, the champion stays: the endpoint's probabilities differ from the offline "
            f"evaluation's by {worst:.2g}, allowed are {allowed:.2g}."
        )
    return (
        f"The predictor answered a held-out dialogue of {len(dialogue)} utterances by REST and gRPC; "
        f"largest difference from the offline evaluation: {worst:.1e}."
    )


def _difference(protocol: str, answer: EndpointPrediction, expected: np.ndarray) -> float:
    if answer.probabilities.shape != expected.shape:
        raise MistereError(
            f"the smoke test failed, the champion stays: by {protocol} the endpoint answered "
            f"{answer.probabilities.shape} probabilities, expected {expected.shape}."
        )
    return float(np.abs(answer.probabilities - expected).max())
