"""``mistere promote`` and ``mistere rollback``: champion, deployment and aliases move together, or not at all."""

from __future__ import annotations

import time
from functools import partial
from typing import Literal

from rich.console import Console

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.artifacts.signing import verify_bundle
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import connect
from mistere.registry.champion import read_champion
from mistere.registry.lineage import Lineage, read_lineage
from mistere.registry.model_registry import mirror_champion
from mistere.registry.promotion_log import who
from mistere.registry.release import is_released, recover, release
from mistere.serving.deployment import Deployment, deployed_services, deployment_key, read_deployment
from mistere.serving.kserve.cluster_release import Rolling, on_cluster
from mistere.serving.kserve.rollout import ClusterDeployment
from pipelines.cli.registry_location import RegistryLocation

_CONSOLE = Console(highlight=False)


def promote(place: RegistryLocation, reference: str, model_name: str, reason: str) -> None:
    """Make a version the champion and deploy it, after its smoke test.

    Args:
        place: store and registry.
        reference: the version.
        model_name: the model, where the reference names none.
        reason: for the log.

    Raises:
        MistereError: it was made from code that no commit holds, its smoke test failed, or somebody else was faster.
    """
    version, lineage = place.find(reference, model_name)
    if not lineage.reproducible:
        what = "code with uncommitted changes" if lineage.run.commit else "code that is in no Git repository"
        raise MistereError(
            f"version {version.version} of {version.name} was made from {what}, so it can't be made again and can't be promoted: "
            "commit the code and run again."
        )
    _release(place, lineage, "promote", reason or f"Promoted by hand ({reference}).")


def rollback(place: RegistryLocation, reason: str) -> None:
    """Make the champion before this one the champion again, after its smoke test.

    Args:
        place: store and registry.
        reason: for the log.

    Raises:
        UsageError: there is no champion, or none before it.
    """
    champion = read_champion(place.store).champion
    if champion is None:
        raise UsageError("there is no champion yet, so there is nothing to roll back.")
    if champion.previous is None:
        raise UsageError(
            f"version {champion.model_version} is the first champion: there is none before it to roll back to."
        )
    before = champion.previous
    try:
        lineage = read_lineage(place.store, before.bundle_digest)
    except ArtifactError as error:
        raise ArtifactError(f"cannot roll back to version {before.model_version}: {error}") from error
    _release(place, lineage, "rollback", reason or f"Rolled back by hand from version {champion.model_version}.")


def _release(place: RegistryLocation, lineage: Lineage, action: Literal["promote", "rollback"], reason: str) -> None:
    served = _served(place.store)
    config = DeploymentConfig(service=served.service) if served else DeploymentConfig()
    mirror = partial(mirror_champion, place.tracking_uri)
    if said := recover(place.store, mirror, config.service):
        _CONSOLE.print(said, markup=False)
    deployment = Deployment(
        service=config.service,
        bundle_location=lineage.bundle_location,
        bundle_digest=lineage.bundle_digest,
        model_version=lineage.model_version,
    )
    cluster = None
    if served is not None and served.mode != "local":
        config = DeploymentConfig.model_validate(served.settings)
        deployment = on_cluster(deployment, config, served.image)
        cluster = ClusterDeployment(connect(), deployment, _tell)
    seen = read_champion(place.store)
    stays = seen.digest == lineage.bundle_digest and is_released(place.store, deployment)
    if stays and seen.champion is not None and (cluster is None or cluster.serves()):
        mirror(seen.champion)
        _CONSOLE.print(f"Version {lineage.model_version} is the champion already and stays deployed.", markup=False)
        return
    bundle = open_artifact(place.store, ModelBundle, lineage.bundle_digest)
    verify_bundle(place.store, bundle)
    champion = lineage.as_champion(time.time())
    if cluster is None:
        from components.deploy_model.endpoint_check import check_endpoint

        answer = check_endpoint(config, bundle, lineage.bundle_location, _tell)
        release(place.store, mirror, seen, champion, deployment, action, reason, who())
        now = " A predictor that is running serves it after a restart."
    else:
        rolling = Rolling(cluster, bundle)
        release(place.store, mirror, seen, champion, deployment, action, reason, who(), rolling)
        answer, now = rolling.message, f" It answers at {rolling.address}." if rolling.address else ""
    _CONSOLE.print(answer, markup=False)
    before = f" instead of version {seen.champion.model_version}" if seen.champion else ""
    _CONSOLE.print(
        f"Version {lineage.model_version} of {lineage.model_name} is the champion and deployed{before}.{now}",
        markup=False,
    )


def _served(store: ObjectStore) -> Deployment | None:
    """The deployment that a release moves; None where there is none yet.

    Raises:
        UsageError: there are several, and which of them serves the champion cannot be told.
    """
    there = [read_deployment(store, service) for service in deployed_services(store)]
    champion = read_champion(store).digest
    serving = [one for one in there if one.bundle_digest == champion] if len(there) > 1 else there
    if there and len(serving) != 1:
        names = ", ".join(one.service for one in there)
        raise UsageError(
            f"{store.uri} has several deployments ({names}), and not exactly one of them serves the champion: delete "
            f"{store.location(deployment_key('NAME'))} of those that are no more."
        )
    return serving[0] if serving else None


def _tell(doing: str) -> None:
    _CONSOLE.print(f"{doing} …", markup=False)
