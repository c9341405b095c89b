"""The pipelines of the project: what compiling, submitting and scheduling one need to know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mistere.artifacts.signing import check_signer
from mistere.common.errors import MistereError, UsageError
from mistere.common.names import shown
from mistere.common.suggestions import did_you_mean
from mistere.config.loader import Config
from mistere.config.stages import PipelineName
from mistere.kubernetes.image_signatures import check_registry
from mistere.kubernetes.images import image
from mistere.serving.kserve.supported_settings import check_cluster_support, check_release_time

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent


_STUDENT_GATE: Final = ("gate.allow_uncommitted", "gate.approve_uncommitted", "gate.data_warnings", "gate.approve_data")
"""The settings of the gate that decide on a student; its comparison with the teacher is ``distillation.margin``."""


class Pipeline(ABC):
    """A pipeline.

    Attributes:
        name: in commands, schedules and settings.
        description: shown on Kubeflow Pipelines.
        reports: whether a run ends with the exit handler, which writes a report and notifies the webhook.
        reads_data: whether its result follows from a version of a dataset. Otherwise it reads what changes by itself, so a run is
            never a repetition of an earlier one.
        names_data: whether a run without ``--data`` reads that of the profile. Otherwise its first step finds the data.
        reads_champion: whether its result follows from the champion too, so that a run with another one is no repetition.
    """

    name: ClassVar[PipelineName]
    description: ClassVar[str]
    reports: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True
    names_data: ClassVar[bool] = True
    reads_champion: ClassVar[bool] = False

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

    @property
    def follows_data(self) -> bool:
        """Whether a run that names no data reads the published version, which a schedule may follow."""
        return self.reads_data and self.names_data

    def check_settings(self, settings: Iterable[str]) -> None:  # noqa: B027  (most pipelines take every setting)
        """Check that a user gives no setting that counts for nothing.

        Args:
            settings: as for ``--set``.

        Raises:
            UsageError: there is one.
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
        check_release_time(config.deployment, config.cluster.step("deploy_model").timeout)

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
    reads_champion = True

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


class Distillation(Pipeline):
    """The pipeline that makes a small student of a released model."""

    name = "distillation"
    description = "Makes a small student of a released model, which waits for a person."
    names_data = False
    reads_champion = True

    def parameters(self, config: Config) -> dict[str, dict[str, Any]]:
        return {name: config.section(name) for name in ("distillation", "validation", "evaluation", "gate", "registry")}

    def check_settings(self, settings: Iterable[str]) -> None:
        for name in (setting.partition("=")[0].strip() for setting in settings):
            if name.startswith("gate.") and name not in _STUDENT_GATE:
                raise UsageError(
                    f"{name}: a student is compared with its teacher by distillation.margin, and of the gate only "
                    f"{', '.join(_STUDENT_GATE)} count for it: leave the setting out."
                )

    def check_signatures(self, config: Config) -> None:
        check_signer(
            config.deployment.bundle_key,
            config.cluster.signing_secret,
            "cluster.signing_secret to the secret with the private key",
        )

    def define(self, config: Config, profile: str) -> GraphComponent:
        from pipelines.distillation import distillation

        key = config.deployment.bundle_key
        return distillation(config.modalities, config.cluster, profile, self.parameters(config), bundle_key=key)

    def define_local(self, arguments: dict[str, Any]) -> GraphComponent:
        from mistere.artifacts.io import read_manifest
        from mistere.artifacts.manifests import ModelBundle
        from mistere.artifacts.object_store import open_store
        from mistere.config.modalities import DEFAULT_MODALITIES
        from mistere.registry.release.champion import chosen_bundle
        from pipelines.distillation import distillation

        store, named = open_store(arguments["run"]["store"]), arguments["distillation"].get("teacher", "")
        modalities: Sequence[str] = DEFAULT_MODALITIES
        with suppress(MistereError):  # the first step says what is wrong with the teacher
            digest, _ = chosen_bundle(store, named, "distillation.teacher")
            modalities = tuple(read_manifest(store, ModelBundle, digest).encoders) or DEFAULT_MODALITIES
        return distillation(modalities)


RETRAINING, SCORING, MONITORING, DISTILLATION = Retraining(), Scoring(), Monitoring(), Distillation()
PIPELINES: dict[PipelineName, Pipeline] = {one.name: one for one in (RETRAINING, SCORING, MONITORING, DISTILLATION)}


def find_pipeline(name: str) -> Pipeline:
    """The pipeline of a name.

    Raises:
        UsageError: there is none.
    """
    for known, pipeline in PIPELINES.items():
        if known == name:
            return pipeline
    raise UsageError(f"there is no pipeline {shown(name)}{did_you_mean(name, PIPELINES)}")
