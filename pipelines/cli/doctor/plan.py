"""What a run would use: its settings, and the addresses that options, environment and profile name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.config.cluster import MODALITY_STEPS, STEPS, StepSettings
from mistere.config.loader import Config
from pipelines.cli.doctor.groups.clock import Clock
from pipelines.kubeflow.access import chosen_host
from pipelines.profiles import load_profile


@dataclass(frozen=True)
class Plan:
    """A run that somebody means to start.

    Attributes:
        profile: its name.
        config: its settings.
        host: of Kubeflow Pipelines; empty where none is named.
        store: a folder or ``s3://…``; empty likewise.
        tracking: the MLflow server; empty likewise.
        clock: what servers that were asked say that the time is.
    """

    profile: str
    config: Config
    host: str
    store: str
    tracking: str
    clock: Clock = field(default_factory=Clock)

    @property
    def on_a_cluster(self) -> bool:
        """Whether pods are to do the work."""
        return bool(self.host) or self.store.startswith("s3://")

    def steps(self) -> Iterator[tuple[str, StepSettings]]:
        """What each step's pod gets, by the name that the settings have for it."""
        for stage in STEPS:
            if stage in MODALITY_STEPS:
                for modality in ("speech", "text"):
                    yield f"{stage}-{modality}", self.config.cluster.step(stage, modality)
            else:
                yield stage, self.config.cluster.step(stage)


def make_plan(profile: str, settings: Sequence[str], host: str | None, store: str | None, tracking: str | None) -> Plan:
    """Options first, then the environment, then the profile's ``cluster`` section.

    Raises:
        UsageError: an unknown profile or setting.
    """
    config = load_profile(profile, settings)
    return Plan(
        profile,
        config,
        chosen_host(host, config.cluster.host),
        store or os.environ.get(STORE_VARIABLE) or config.cluster.store,
        tracking or os.environ.get(TRACKING_VARIABLE) or config.cluster.tracking_uri,
    )
