"""The cluster's part in a release: the roll-out before the champion moves, and undoing an interrupted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import connect
from mistere.kubernetes.image_signatures import verify_image
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.bundle_needs import BundleNeeds, amounts_for
from mistere.serving.kserve.lease import RenewLease
from mistere.serving.kserve.rollout import ClusterDeployment


@dataclass
class Rolling:
    """A roll-out as a release calls it (:data:`mistere.registry.release.atomic_release.RollOut`), and its result afterwards.

    Attributes:
        cluster: the deployment.
        bundle: the bundle to serve.
        message: the result of the smoke test, one sentence.
        address: the URL of the service.
    """

    cluster: ClusterDeployment
    bundle: ArtifactHandle[ModelBundle]
    message: str = ""
    address: str = ""

    def __call__(self, renew_lease: RenewLease) -> Callable[[], None]:
        """Roll the bundle out; returns a function that undoes it."""
        done = self.cluster.roll_out(self.bundle, renew_lease)
        self.message, self.address = done.message, done.address
        return done.undo


def on_cluster(
    deployment: Deployment, config: DeploymentConfig, image: str, needs: BundleNeeds | None = None
) -> Deployment:
    """Add the cluster settings to a deployment's pointer, so that a later release can serve another bundle with them.

    If ``deployment.image_key`` is set, the image is the one that was signed, by its digest.

    Args:
        deployment: the pointer.
        config: the ``deployment`` section.
        image: the predictor's image.
        needs: of the bundle; None for the smallest amounts.

    Raises:
        UsageError: the section's pods cannot hold the bundle.
        ArtifactError: the image is not signed by that key.
    """
    settings = config.model_dump(mode="json")
    amounts = amounts_for(config, needs) if needs is not None else {}
    image = verify_image(image, config.image_key)
    return deployment.model_copy(update={"mode": config.mode, "image": image, "settings": settings, "amounts": amounts})


def undo_interrupted(deployment: Deployment, before: Deployment | None, renew_lease: RenewLease) -> None:
    """Undo the roll-out of a process that was killed.

    Args:
        deployment: the interrupted deployment.
        before: the deployment's previous pointer; None if there was none.
        renew_lease: called every few seconds during a wait.
    """
    ClusterDeployment(connect(), deployment, lambda _: None).undo(before, renew_lease)


def candidate_may_receive(deployment: Deployment) -> bool:
    """Whether the Gateway may send requests to the candidate of a deployment now.

    Raises:
        MistereError: the cluster does not answer, or has no Gateway API.
    """
    return ClusterDeployment(connect(), deployment, lambda _: None).route.candidate_may_receive()
