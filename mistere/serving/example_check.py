"""Compare an endpoint's answer to the example dialogue of a bundle with the offline evaluation's probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.counting import counted
from mistere.common.errors import MistereError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.config.deployment import DeploymentConfig
from mistere.serving import protocol
from mistere.serving.client import DialogueClient, EndpointPrediction
from mistere.serving.example_dialogue import Example, read_example
from mistere.serving.made_up_dialogue import made_up_dialogue


@dataclass(frozen=True)
class ExampleCheck:
    """The smoke test of a deployment.

    Attributes:
        example: the dialogue and its expected probabilities; NaN where nothing is known but their number.
        bundle_digest: digest of the bundle that must answer.
        tolerance: largest allowed difference of a probability.
    """

    example: Example
    bundle_digest: str
    tolerance: float

    @property
    def _expects(self) -> bool:
        return not np.isnan(self.example.expected).any()

    @classmethod
    def of(cls, bundle: ArtifactHandle[ModelBundle], config: DeploymentConfig) -> ExampleCheck:
        """Read the example dialogue of a bundle. For one without, a made-up dialogue is sent, whose answer only must be well-formed.

        Raises:
            MistereError: the bundle has no example dialogue, and takes no modality of which one can be made up.
        """
        example = read_example(bundle.path)
        if example is None:
            manifest = bundle.manifest
            kinds = {
                name: encoder.settings.get("kind") or IMPLICIT_KINDS[name]
                for name, encoder in manifest.encoders.items()
                if encoder.settings.get("kind") or name in IMPLICIT_KINDS
            }
            dialogue = made_up_dialogue(kinds)
            if not dialogue:
                raise MistereError(
                    "the bundle has no example dialogue, and none can be made up for a model of vectors alone: the smoke test needs one, "
                    "so the champion stays; train with evaluation.example=synthetic."
                )
            example = Example(dialogue, np.full((len(dialogue), len(manifest.labels)), np.nan))
        exact = all(encoder.identity.precision == "float32" for encoder in bundle.manifest.encoders.values())
        tolerance = config.tolerance if exact and config.is_exact else max(config.tolerance, config.half_tolerance)
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
        if not self._expects:
            for protocol_name, answer in answers.items():
                self._require_bundle(protocol_name, answer)
                self._require_probabilities(protocol_name, answer)
            return (
                f"The predictor answered a made-up dialogue of {counted(len(self.example.dialogue), 'utterance')} by "
                f"{' and '.join(answers)} with probabilities; the bundle has no example dialogue to compare them with."
            )
        worst = max(self._difference(protocol_name, answer) for protocol_name, answer in answers.items())
        if not worst <= self.tolerance:
            raise MistereError(
                f"the smoke test failed, the champion stays: the endpoint's probabilities differ from the offline "
                f"evaluation's by {worst:.2g}, allowed are {self.tolerance:.2g}: check that "
                "the endpoint runs the predictor of this release, or raise deployment.tolerance."
            )
        return (
            f"The predictor answered the example dialogue of {counted(len(self.example.dialogue), 'utterance')} by "
            f"{' and '.join(answers)}; largest difference from the offline evaluation: {worst:.1e}."
        )

    def _difference(self, protocol_name: str, answer: EndpointPrediction) -> float:
        """The largest difference of a probability."""
        self._require_bundle(protocol_name, answer)
        if answer.probabilities.shape != self.example.expected.shape:
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} the endpoint answered "
                f"{answer.probabilities.shape} probabilities, expected {self.example.expected.shape}: serve it with "
                "the predictor of this release."
            )
        return float(np.abs(answer.probabilities - self.example.expected).max())

    def _require_bundle(self, protocol_name: str, answer: EndpointPrediction) -> None:
        served = answer.parameters.get(protocol.BUNDLE_DIGEST, "")
        if served != self.bundle_digest:
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} bundle {served[:12] or 'without a digest'} "
                f"answered, expected {self.bundle_digest[:12]}: wait until the new revision has all traffic, then run "
                "again."
            )

    def _require_probabilities(self, protocol_name: str, answer: EndpointPrediction) -> None:
        rows = answer.probabilities
        good = rows.shape == self.example.expected.shape and bool(np.isfinite(rows).all())
        if not good or not np.allclose(rows.sum(1), 1, atol=1e-3):
            raise MistereError(
                f"the smoke test failed, the champion stays: by {protocol_name} the endpoint answered no probabilities of the form "
                f"{self.example.expected.shape}: serve it with the predictor of this release."
            )
