"""The pipelines of the project: what compiling, submitting and scheduling one need to know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from mistere.artifacts.signing import check_signer
from mistere.common.errors import UsageError
from mistere.common.names import shown
from mistere.common.suggestions import did_you_mean
from mistere.config.loader import Config
from mistere.config.stages import PipelineName
from mistere.kubernetes.image_signatures import check_registry
from mistere.kubernetes.images import image
from mistere.serving.kserve.supported_settings import check_cluster_support

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent


class Pipeline(ABC):
    """A pipeline.

    Attributes:
        name: in commands, schedules and settings.
        description: shown on Kubeflow Pipelines.
        reports: whether a run ends with the exit handler, which writes a report and notifies the webhook.
        reads_data: whether its result follows from a version of a dataset. Otherwise it reads what changes by itself, so a run is
            never a repetition of an earlier one.
    """

    name: ClassVar[PipelineName]
    description: ClassVar[str]
    reports: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True

    @property
    def server_name(self) -> str:
        """Its name on Kubeflow Pipelines."""
        return f"mistere-{self.name}"

    @property
    def file(self) -> str:
        """The name of its compiled file."""
        return f"{self.name}.yaml"

    @abstractmethod
    def parameters(self, config: Config) -> dict[str, dict[str, Any]]:
        """The sections that are parameters of the pipeline, as plain data."""

    def check(self, config: Config) -> None:  # noqa: B027  (a pipeline may need no check)
        """Check the settings for a cluster.

        Raises:
            UsageError: the pipeline could not run with one.
        """

    def check_signatures(self, config: Config) -> None:  # noqa: B027  (nor signatures)
        """Check that what the pipeline deploys gets the signatures that are verified; one that deploys nothing needs none.

        Raises:
            UsageError: it does not.
        """

    @abstractmethod
    def define(self, config: Config, profile: str) -> GraphComponent:
        """Define the pipeline for a cluster.

        Args:
            config: the configuration.
            profile: name of the profile that it comes from.
        """

    @abstractmethod
    def define_local(self, arguments: dict[str, Any]) -> GraphComponent:
        """Define the pipeline for a run on this machine with these arguments."""


class Retraining(Pipeline):
    """The pipeline that retrains and releases."""

    name = "retraining"
    description = "Retrains a model of emotions in conversations and, if the gate agrees, releases it."

    def parameters(self, config: Config) -> dict[str, dict[str, Any]]:
        return config.parameters()

    def check(self, config: Config) -> None:
        check_cluster_support(config.deployment)

    def check_signatures(self, config: Config) -> None:
        check_signer(
            config.deployment.bundle_key,
            config.cluster.signing_secret,
            "cluster.signing_secret to the secret with the private key",
        )
        check_registry(image("predictor"), config.deployment.image_key)

    def define(self, config: Config, profile: str) -> GraphComponent:
        from pipelines.retraining import retraining

        transcribing = config.data.transcription.is_on
        return retraining(config.modalities, config.cluster, profile, config.parameters(), transcribing=transcribing)

    def define_local(self, arguments: dict[str, Any]) -> GraphComponent:
        from mistere.config.modalities import modalities_of
        from pipelines.retraining import retraining

        transcribing = bool(arguments["data"]["transcription"]["source"])
        return retraining(modalities_of(arguments), transcribing=transcribing)


class Scoring(Pipeline):
    """The pipeline that scores an archive."""

    name = "scoring"
    description = "Scores a whole archive of conversations with the released model."

    def parameters(self, config: Config) -> dict[str, dict[str, Any]]:
        return {"scoring": config.section("scoring")}

    def define(self, config: Config, profile: str) -> GraphComponent:
        from pipelines.scoring import scoring

        return scoring(config.cluster, profile, config.section("scoring"), config.section("registry"))

    def define_local(self, arguments: dict[str, Any]) -> GraphComponent:
        from pipelines.scoring import scoring

        return scoring()


class Monitoring(Pipeline):
    """The pipeline that compares live traffic with the released model's bundle."""

    name = "monitoring"
    description = "Compares the traffic of the released model with what it was tested on."
    reports = False
    reads_data = False

    def parameters(self, config: Config) -> dict[str, dict[str, Any]]:
        return {"monitoring": config.section("monitoring")}

    def define(self, config: Config, profile: str) -> GraphComponent:
        from pipelines.monitoring import monitoring

        return monitoring(config.cluster, profile, config.section("monitoring"))

    def define_local(self, arguments: dict[str, Any]) -> GraphComponent:
        from pipelines.monitoring import monitoring

        return monitoring()


RETRAINING, SCORING, MONITORING = Retraining(), Scoring(), Monitoring()
PIPELINES: dict[PipelineName, Pipeline] = {one.name: one for one in (RETRAINING, SCORING, MONITORING)}


def find_pipeline(name: str) -> Pipeline:
    """The pipeline of a name.

    Raises:
        UsageError: there is none.
    """
    for known, pipeline in PIPELINES.items():
        if known == name:
            return pipeline
    raise UsageError(f"there is no pipeline {shown(name)}{did_you_mean(name, PIPELINES)}")
