"""A share of the requests that a person gives a version: it stays as it is until the person goes on or back."""

from __future__ import annotations

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.serving.example_check import ExampleCheck
from mistere.serving.kserve.canary.steps import Canary
from mistere.serving.kserve.inference_service import revision_of
from mistere.serving.kserve.lease import RenewLease
from mistere.serving.kserve.rollout import ClusterDeployment
from mistere.serving.kserve.supported_settings import check_support


def require_gateway(config: DeploymentConfig) -> None:
    """Check that the deployed version has a Gateway.

    Raises:
        UsageError: it has none.
    """
    if config.mode != "standard" or not config.gateway.name:
        raise UsageError(
            "the deployed version has no Gateway that splits its requests: set deployment.mode=standard and deployment.gateway.name in the "
            "profile, and release a version with it."
        )


def start_canary(
    cluster: ClusterDeployment, bundle: ArtifactHandle[ModelBundle], share: int, renew_lease: RenewLease
) -> str:
    """Give a bundle a share of the requests, beside the deployed version, and leave it so.

    Args:
        cluster: the bundle's deployment, with the settings of the deployed service.
        bundle: the bundle, which a candidate serves.
        share: percentage of the requests.
        renew_lease: as for :meth:`ClusterDeployment.roll_out`.

    Returns:
        The result of the candidate's smoke test, one sentence.

    Raises:
        UsageError: no Gateway is configured, or no other version is deployed.
        RollbackError: it failed and could not be undone.
        MistereError: the candidate did not become ready or failed the test; the service has all requests.
    """
    require_gateway(cluster.config)
    check_support(cluster.config, cluster.deployment.bundle_location)
    before = cluster.live_service(renew_lease)
    if before is None or revision_of(before) == revision_of(cluster.manifest()):
        raise UsageError("a canary needs another version that is deployed: this one has all requests already.")
    cluster.route.check()

    def give(canary: Canary, message: str) -> str:
        canary.give(share, renew_lease)
        return message

    return cluster.share_requests(before, ExampleCheck.of(bundle, cluster.config), renew_lease, give)
