"""Compare an endpoint's answer to the example dialogue of a bundle with the offline evaluation's probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.serving import protocol
from mistere.serving.client import DialogueClient, EndpointPrediction
from mistere.serving.example_dialogue import Example, read_example


@dataclass(frozen=True)
class ExampleCheck:
    """The smoke test of a deployment.

    Attributes:
        example: the dialogue and its expected probabilities.
        bundle_digest: digest of the bundle that must answer.
        tolerance: largest allowed difference of a probability.
    """

    example: Example
    bundle_digest: str
    tolerance: float

    @classmethod
    def of(cls, bundle: ArtifactHandle[ModelBundle], config: DeploymentConfig) -> ExampleCheck:
        """Read the example dialogue of a bundle.

        Raises:
            MistereError: the bundle has no example dialogue.
        """
        example = read_example(bundle.path)
        if example is None:
            raise MistereError(
                "the bundle has no example dialogue, because every test dialogue exceeds a limit of the endpoint "
                f"({protocol.MAX_UTTERANCES} utterances of {protocol.MAX_UTTERANCE_SECONDS:g} s, {protocol.MAX_BYTES >> 20} MiB, "
                f"{protocol.MAX_SECONDS:g} s and {protocol.MAX_TOKENS} tokens in all) or does not decode: the smoke "
                "test needs one, so the champion stays."
            )
        exact = all(encoder.identity.precision == "float32" for encoder in bundle.manifest.encoders.values())
        tolerance = config.tolerance if exact else max(config.tolerance, config.half_tolerance)
        return cls(example, bundle.manifest.digest, tolerance)

    def run(self, client: DialogueClient) -> str:
        """Send the dialogue by REST, and by gRPC if the client has a gRPC address, and compare the answers.

        Returns:
            The result in one sentence.

        Raises:
            MistereError: another bundle answered, or the probabilities differ.
            EndpointError: the endpoint did not answer.
        """
        answers = {"REST": client.predict_rest(self.example.turns)}
        if client.grpc_target is not None:
            answers["gRPC"] = client.predict_grpc(self.example.turns)
        worst = max(self._difference(protocol_name, answer) for protocol_name, answer in answers.items())
        if not worst <= self.tolerance:
            raise MistereError(
                f"the smoke test failed, the champion stays: the endpoint's probabilities differ from the offline "
                f"evaluation's by {worst:.2g}, allowed are {self.tolerance:.2g}: check that "
                "the endpoint runs the predictor of this release, or raise deployment.tolerance."
            )
        return (
            f"The predictor answered a held-out dialogue of {counted(len(self.example.dialogue), 'utterance')} by "
            f"{' and '.join(answers)}; largest difference from the offline evaluation: {worst:.1e}."
        )

    def _difference(self, protocol_name: str, answer: EndpointPrediction) -> float:
        """The largest difference of a probability."""
        served = answer.parameters.get(protocol.BUNDLE_DIGEST, "")
        if served != self.bundle_digest:
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} bundle {served[:12] or 'without a digest'} "
                f"answered, expected {self.bundle_digest[:12]}: wait until the new revision has all traffic, then run "
                "again."
            )
        if answer.probabilities.shape != self.example.expected.shape:
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} the endpoint answered "
                f"{answer.probabilities.shape} probabilities, expected {self.example.expected.shape}: serve it with "
                "the predictor of this release."
            )
        return float(np.abs(answer.probabilities - self.example.expected).max())
