"""The settings of a run, and the addresses that options, environment and profile name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import UsageError
from mistere.config.cluster import StepSettings
from mistere.config.loader import Config
from mistere.config.stages import every_stage, stages
from mistere.runs.outcome import EXIT_HANDLER
from pipelines.bundle_estimate import planned_amounts
from pipelines.catalogue import RETRAINING, Pipeline, find_pipeline
from pipelines.cli.doctor.groups.clock import Clock
from pipelines.kubeflow.connection.access import chosen_host
from pipelines.profiles import load_local_profile, load_profile


@dataclass(frozen=True)
class Plan:
    """A run that is about to be started.

    Attributes:
        profile: the name of the profile.
        config: the settings.
        host: the address of Kubeflow Pipelines; empty if none is named.
        store: a folder or ``s3://…``; empty if none is named.
        tracking: the MLflow server; empty if none is named.
        pipeline: the pipeline that is run.
        clock: the times of the servers that the checks reach.
    """

    profile: str
    config: Config
    host: str
    store: str
    tracking: str
    pipeline: Pipeline = RETRAINING
    clock: Clock = field(default_factory=Clock)

    @property
    def on_a_cluster(self) -> bool:
        """Whether the run is executed by pods of a cluster."""
        return bool(self.host) or self.store.startswith("s3://")

    def pods(self) -> Iterator[PlannedPods]:
        """The pods of all steps, and of the TrainJobs that steps start."""
        for name, step in self.steps():
            yield PlannedPods(name, f"cluster.steps.{name}", step)
        for modality, config in self.config.encoders().items() if self.pipeline is RETRAINING else ():
            if config.uses_trainjob:
                pod = StepSettings(
                    gpus=config.gpus_per_node,
                    **config.nodes.model_dump(exclude={"trainjob", "runtime", "timeout", "gpus"}),
                )
                yield PlannedPods(f"a node of the {modality} encoder", f"{modality}.nodes", pod, config.num_nodes)

    def predictors(self) -> Iterator[PlannedPods]:
        """The pod that serves the model, if the run deploys it to the cluster."""
        if self.config.deployment.mode != "local" and self.pipeline is RETRAINING:
            deployment = self.config.deployment.with_amounts(self._predictor_amounts)
            fields = ("cpu", "cpu_limit", "memory", "gpus", "gpu_type", "node_selector", "tolerations")
            pod = StepSettings.model_validate({name: getattr(deployment, name) for name in fields})
            yield PlannedPods("the predictor", "deployment", pod)

    @cached_property
    def _predictor_amounts(self) -> dict[str, Any]:
        """What the predictor gets for the settings that are ``auto``; nothing where another check says that the model does not fit."""
        try:
            return planned_amounts(self.config)
        except UsageError:
            return {}

    def steps(self) -> Iterator[tuple[str, StepSettings]]:
        """The settings of each step's pod, by its name in ``cluster.steps``."""
        steps = dict(stages(pipeline=self.pipeline.name))
        if self.pipeline.reports:
            steps.setdefault(EXIT_HANDLER, every_stage()[EXIT_HANDLER])
        for stage, info in steps.items():
            if info.optional and not self.config.data.transcription.is_on:
                continue
            if info.per_modality:
                for modality in self.config.modalities:
                    yield f"{stage}-{modality}", self.config.cluster.step(stage, modality)
            else:
                yield stage, self.config.cluster.step(stage)


@dataclass(frozen=True)
class PlannedPods:
    """Pods of one kind that a run starts.

    Attributes:
        name: the step, the nodes of a section's TrainJob, or the predictor.
        setting: where the configuration sets them.
        pod: what each requests.
        count: how many run at the same time.
    """

    name: str
    setting: str
    pod: StepSettings
    count: int = 1


def make_plan(
    profile: str,
    settings: Sequence[str],
    host: str | None,
    store: str | None,
    tracking: str | None,
    pipeline: str = RETRAINING.name,
) -> Plan:
    """Make a plan from the options, else the environment, else the profile's ``cluster`` section.

    Raises:
        UsageError: an unknown profile, setting or pipeline.
    """
    config = load_profile(profile, settings)
    plan = Plan(
        profile,
        config,
        chosen_host(host, config.cluster.host),
        store or os.environ.get(STORE_VARIABLE) or config.cluster.store,
        tracking or os.environ.get(TRACKING_VARIABLE) or config.cluster.tracking_uri,
        find_pipeline(pipeline),
    )
    return plan if plan.on_a_cluster else replace(plan, config=load_local_profile(profile, settings))
