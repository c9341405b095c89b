"""Run a service's shadow on a cluster, and remove it."""

from __future__ import annotations

from typing import Final

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import KubernetesApi
from mistere.serving.example_check import ExampleCheck
from mistere.serving.kserve.inference_service import shadow_name, shadow_service
from mistere.serving.kserve.lease import no_lease
from mistere.serving.kserve.live_service import service_path
from mistere.serving.kserve.rollout import ClusterDeployment

_HINT: Final = "set deployment.shadow=true and release the champion again (`mistere promote @champion`), which restarts its pods once"


def require_copies(config: DeploymentConfig) -> None:
    """Check that the deployed predictor copies requests.

    Raises:
        UsageError: it does not.
    """
    if not config.shadow:
        raise UsageError(f"the deployed predictor copies no requests: {_HINT}.")


def start_shadow(cluster: ClusterDeployment, bundle: ArtifactHandle[ModelBundle]) -> str:
    """Serve a bundle as the shadow of the deployed service, and test it with its example dialogue.

    Args:
        cluster: the bundle's deployment, with the settings of the deployed service.
        bundle: the bundle.

    Returns:
        The result of the test, one sentence.

    Raises:
        MistereError: it did not become ready or failed the test, and was deleted again.
    """
    target, config = cluster.deployment, cluster.config
    manifest = shadow_service(target.bundle_location, target.bundle_digest, config, target.image)
    return cluster.run_beside(manifest, ExampleCheck.of(bundle, config), no_lease)


def stop_shadow(api: KubernetesApi, config: DeploymentConfig) -> None:
    """Delete the shadow; nothing happens if there is none."""
    api.delete(service_path(config, shadow_name(config.service)))
