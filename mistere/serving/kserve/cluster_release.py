"""A cluster's part in a release: the roll-out that comes first, and what a process that was killed left of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import connect
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.rollout import Beat, ClusterDeployment


@dataclass
class Rolling:
    """A roll-out as a release runs it (:data:`mistere.registry.release.RollOut`), and then what came of it."""

    cluster: ClusterDeployment
    bundle: ArtifactHandle[ModelBundle]
    said: str = ""
    address: str = ""

    def __call__(self, beat: Beat) -> Callable[[], None]:
        """Do it."""
        done = self.cluster.roll_out(self.bundle, beat)
        self.said, self.address = done.said, done.address
        return done.take_back


def on_cluster(deployment: Deployment, config: DeploymentConfig, image: str) -> Deployment:
    """The pointer of a deployment with what another bundle needs to be served in its place."""
    settings = config.model_dump(mode="json")
    return deployment.model_copy(update={"mode": config.mode, "image": image, "settings": settings})


def take_back_interrupted(deployment: Deployment, before: str) -> None:
    """Undo what a process that was killed may have rolled out.

    Args:
        deployment: what it was at.
        before: the deployment's pointer before it, as text; empty for none.
    """
    pointer = Deployment.model_validate_json(before) if before else None
    ClusterDeployment(connect(), deployment, lambda _: None).take_back(pointer)
