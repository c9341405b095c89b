"""The dialogue that a bundle carries, put to an endpoint: what it answers must be what the offline evaluation found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.serving import protocol
from mistere.serving.client import DialogueClient, EndpointPrediction
from mistere.serving.example_dialogue import Example, read_example


@dataclass(frozen=True)
class GoldenDialogue:
    """A dialogue, its answer, and how far an endpoint's may be from it."""

    example: Example
    bundle_digest: str
    allowed: float

    @classmethod
    def of(cls, bundle: ArtifactHandle[ModelBundle], config: DeploymentConfig) -> GoldenDialogue:
        """The dialogue that a bundle carries.

        Raises:
            MistereError: it carries none.
        """
        example = read_example(bundle.path)
        if example is None:
            raise MistereError(
                "the bundle holds no example dialogue, for every test dialogue is over a limit of the endpoint (128 utterances of "
                "30 s, 8 MiB in all) or does not decode: the smoke test needs one, so the champion stays."
            )
        exact = all(encoder.identity.precision == "float32" for encoder in bundle.manifest.encoders.values())
        allowed = config.tolerance if exact else max(config.tolerance, config.half_tolerance)
        return cls(example, bundle.manifest.digest, allowed)

    def put_to(self, client: DialogueClient) -> str:
        """Ask by REST, and by gRPC where the client has an address for it, and compare.

        Returns:
            A sentence on what was found.

        Raises:
            MistereError: another model answered, or something else than expected.
            EndpointError: none did.
        """
        answers = {"REST": client.predict_rest(self.example.dialogue)}
        if client.grpc_target is not None:
            answers["gRPC"] = client.predict_grpc(self.example.dialogue)
        worst = max(self._difference(protocol_name, answer) for protocol_name, answer in answers.items())
        if not worst <= self.allowed:
            raise MistereError(
                f"the smoke test failed, the champion stays: the endpoint's probabilities differ from the offline "
                f"evaluation's by {worst:.2g}, allowed are {self.allowed:.2g}."
            )
        return (
            f"The predictor answered a held-out dialogue of {len(self.example.dialogue)} utterances by "
            f"{' and '.join(answers)}; largest difference from the offline evaluation: {worst:.1e}."
        )

    def _difference(self, protocol_name: str, answer: EndpointPrediction) -> float:
        served = answer.parameters.get(protocol.BUNDLE_DIGEST, "")
        if served != self.bundle_digest:
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} bundle {served[:12] or 'without a digest'} "
                f"answered, expected {self.bundle_digest[:12]}."
            )
        if answer.probabilities.shape != self.example.expected.shape:
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} the endpoint answered "
                f"{answer.probabilities.shape} probabilities, expected {self.example.expected.shape}."
            )
        return float(np.abs(answer.probabilities - self.example.expected).max())
