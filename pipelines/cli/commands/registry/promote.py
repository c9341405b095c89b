"""``mistere promote`` and ``mistere rollback``: champion, deployment and aliases change together, or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from mistere.artifacts.io import open_artifact, read_manifest
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.artifacts.signing import verify_bundle
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import connect
from mistere.registry.lineage import Lineage, read_lineage
from mistere.registry.mlflow.model_registry import mirror_champion, registered_versions
from mistere.registry.release.atomic_release import release
from mistere.registry.release.canary import end_canary, hold_canary
from mistere.registry.release.candidates import Standing, require_no_rejection, standing
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import Journal, read_journal, services
from mistere.registry.release.model_inputs import require_inputs_of_deployed
from mistere.registry.release.promotion_log import read_log, who
from mistere.registry.release.recovery import is_released, recover
from mistere.registry.release.unfinished import unfinished_releases
from mistere.serving.deployment import Deployment, deployed_services, deployment_key, read_deployment
from mistere.serving.kserve.bundle_needs import bundle_needs
from mistere.serving.kserve.canary.by_hand import require_gateway, start_canary
from mistere.serving.kserve.cluster_release import Rolling, on_cluster
from mistere.serving.kserve.live_service import port_forward
from mistere.serving.kserve.rollout import ClusterDeployment
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.registry_location import RegistryLocation

_CONSOLE = OutputConsole(highlight=False, soft_wrap=True)
OTHER_INPUTS: Final = "--other-inputs releases it all the same"
"""How to release a version that reads other inputs than the deployed one."""


def promote(
    location: RegistryLocation,
    reference: str,
    model_name: str,
    reason: str,
    canary: int | None = None,
    *,
    other_inputs: bool = False,
) -> None:
    """Make a version the champion and deploy it, after its smoke test; or give it a share of the requests only.

    Args:
        location: store and registry.
        reference: the version.
        model_name: the model, where the reference names none.
        reason: for the log.
        canary: percentage of the requests that the version gets beside the champion, which stays; None to release it.
        other_inputs: release it even if it does not understand the requests of the deployed version's clients.

    Raises:
        UsageError: a share is given, and no Gateway splits the requests of the deployed version, or it reads other inputs than that.
        MistereError: its code is not committed, it waits for approval or was rejected, also meanwhile, its smoke test failed, or the
            champion changed meanwhile.
    """
    version, lineage = location.find(reference, model_name)
    known = read_log(location.store).events
    stands = standing(location.store, version.bundle_digest)
    if stands.state in {"waiting", "rejected"}:
        raise MistereError(
            f"version {version.version} of {version.name} {why_not_released(stands)}: decide on it with `mistere approve "
            f"{version.name}/{version.version} --reason …`."
        )
    if not stands.approved and not lineage.reproducible:
        code = "code with uncommitted changes" if lineage.run.commit else "code outside a Git repository"
        raise MistereError(
            f"version {version.version} of {version.name} was made from {code}, so it cannot be reproduced and cannot be promoted: "
            "commit the code and run again."
        )
    check = partial(require_no_rejection, location.store, version.bundle_digest, version.version, known)
    reason = reason or f"Promoted by hand ({reference})."
    release_version(location, lineage, "promote", reason, check, canary, "" if other_inputs else OTHER_INPUTS)


def rollback(location: RegistryLocation, reason: str, *, unfinished: bool = False, service: str = "") -> None:
    """Roll an interrupted release back, or take a canary back, if there is one; else restore the previous champion, after its smoke test.

    Args:
        location: store and registry.
        reason: for the log.
        unfinished: never restore a champion: do nothing if there is no interrupted release and no canary.
        service: the one whose release is meant; empty for any.

    Raises:
        UsageError: several releases are unfinished, there is no champion, or no previous one.
        ConflictError: a release is in progress.
    """
    if service and not unfinished:
        raise UsageError("--service chooses among the unfinished releases: give --unfinished as well.")
    if _take_unfinished_back(location, reason, service):
        return
    champion = read_champion(location.store).champion
    if unfinished:
        _require_readable(location.store, [service] if service else services(location.store))
        stays = f"; the champion stays, version {champion.model_version}" if champion else ""
        of = f" of {service}" if service else ""
        _CONSOLE.print(f"No release{of} is unfinished, so nothing was taken back{stays}.", markup=False)
        return
    if served := served_deployment(location.store):
        _require_readable(location.store, [served.service])
    if champion is None:
        raise UsageError("there is no champion yet, so there is nothing to roll back.")
    if champion.previous is None:
        raise UsageError(
            f"version {champion.model_version} is the first champion: there is no previous one to roll back to."
        )
    before = champion.previous
    try:
        lineage = read_lineage(location.store, before.bundle_digest)
    except ArtifactError as error:
        raise ArtifactError(f"cannot roll back to version {before.model_version}: {error}") from error
    location.require_registered(registered_versions(location.tracking_uri, lineage.model_name))
    reason = reason or f"Rolled back by hand from version {champion.model_version}."
    release_version(location, lineage, "rollback", reason)


def _require_readable(store: ObjectStore, names: list[str]) -> None:
    """Check that no journal of these services is damaged, which may hold an unfinished release.

    Raises:
        ArtifactError: one is.
    """
    for name in names:
        read_journal(store, name)


def _take_unfinished_back(location: RegistryLocation, reason: str, service: str) -> bool:
    """Take an interrupted release or a canary back, of whichever service, which is all that a rollback has to do then.

    Returns:
        False if there was none, or if it had moved the champion and was completed instead.

    Raises:
        UsageError: there are several.
        ConflictError: it is in progress.
    """
    found = unfinished_releases(location.store)
    releases = [release for release in found if service in {"", release.journal.deployment.service}]
    standing = [release for release in releases if not release.moved]
    if len(standing) > 1:
        sentences = " ".join(release.sentence() for release in standing)
        raise UsageError(
            f"several releases are unfinished, so nothing was changed: choose one with `mistere rollback --unfinished --service NAME`. {sentences}"
        )
    if standing and standing[0].by_hand:
        _take_canary_back(location.store, standing[0].journal, reason)
        return True
    return any(_roll_interrupted_back(location, release.journal) for release in standing or releases)


def _roll_interrupted_back(location: RegistryLocation, journal: Journal) -> bool:
    """Roll back a release, or a canary, whose process was killed; False if it had moved the champion and was completed instead."""
    service = journal.deployment.service
    message = recover(location.store, partial(mirror_champion, location.tracking_uri), service)
    champion = read_champion(location.store)
    if journal.moved(champion):
        _CONSOLE.print(message, markup=False)
        return False
    version = journal.champion.model_version
    had_share = journal.share or _by_hand(journal)
    first = (
        f"The canary of version {version} had been interrupted and gets no requests of {service} any more"
        if had_share
        else f"The release of version {version} to {service} had been interrupted and was rolled back"
    )
    if champion.champion is None:
        _CONSOLE.print(f"{first}; there is no champion.", markup=False)
        return True
    _CONSOLE.print(
        f"{first}; the champion stays, version {champion.champion.model_version}. Run `mistere promote {journal.champion.model_name}/{version}` "
        "to release the other one after all, or `mistere rollback` to restore the champion before.",
        markup=False,
    )
    return True


def _by_hand(journal: Journal) -> bool:
    return journal.event is not None and journal.event.action == "canary"


def _take_canary_back(store: ObjectStore, journal: Journal, reason: str) -> None:
    """End a canary; one that others end meanwhile is no reason to restore a champion either."""
    service, version = journal.deployment.service, journal.deployment.model_version
    _print_step("giving all requests to the champion")
    if end_canary(store, service, reason or "Taken back by hand.", who()) is None:
        _CONSOLE.print(f"Version {version} is no canary of {service} any more; nothing was changed.", markup=False)
        return
    deployed = read_deployment(store, service).model_version
    _CONSOLE.print(
        f"Version {version} was a canary and gets no requests of {service} any more; version {deployed} stays.",
        markup=False,
    )


def why_not_released(stands: Standing) -> str:
    """Why a version that a person has to decide on, or has rejected, is not released; continues a sentence that names the version."""
    if stands.state == "rejected" and stands.decision is not None:
        return f"was rejected by {stands.decision.by} ({stands.decision.reason.rstrip('.')})"
    holds = stands.candidate.holds if stands.candidate else []
    return f"is held by the gate ({holds[0].sentence.rstrip('.')})" if holds else "waits for approval"


def release_version(
    location: RegistryLocation,
    lineage: Lineage,
    action: Literal["promote", "approve", "rollback"],
    reason: str,
    check: Callable[[], None] | None = None,
    canary: int | None = None,
    remedy: str = "",
) -> None:
    """Make a version the champion and deploy it, after its smoke test, and print what was done.

    Args:
        location: store and registry.
        lineage: of the version.
        action: for the log.
        reason: for the log.
        check: called once the release, or the canary, holds the journal; raises if what others decided meanwhile forbids it.
        canary: percentage of the requests that the version gets, and nothing else; None to release it.
        remedy: how to release it although it does not understand the requests of the deployed version's clients; empty to release it.

    Raises:
        UsageError: a share is given, and no Gateway splits the requests of the deployed version, or it reads other inputs than that.
        MistereError: its smoke test failed, or the champion changed meanwhile.
    """
    served = served_deployment(location.store)
    if canary is not None:
        require_gateway(DeploymentConfig.model_validate(served.settings) if served else DeploymentConfig())
    config = DeploymentConfig(service=served.service) if served else DeploymentConfig()
    mirror = partial(mirror_champion, location.tracking_uri)
    if message := recover(location.store, mirror, config.service):
        _CONSOLE.print(message, markup=False)
    deployment = Deployment(
        service=config.service,
        bundle_location=lineage.bundle_location,
        bundle_digest=lineage.bundle_digest,
        model_version=lineage.model_version,
    )
    cluster = None
    if served is not None and served.mode != "local":
        config = DeploymentConfig.model_validate(served.settings)
        needs = bundle_needs(location.store, read_manifest(location.store, ModelBundle, lineage.bundle_digest))
        deployment = on_cluster(deployment, config, served.image, needs)
        cluster = ClusterDeployment(connect(), deployment, _print_step)
    bundle = open_artifact(location.store, ModelBundle, lineage.bundle_digest)
    verify_bundle(location.store, bundle, config.bundle_key)
    seen = read_champion(location.store)
    stays = seen.digest == lineage.bundle_digest and is_released(location.store, deployment)
    if stays and seen.champion is not None and (cluster is None or cluster.serves()):
        mirror(seen.champion)
        _CONSOLE.print(f"Version {lineage.model_version} is the champion already and stays deployed.", markup=False)
        return
    if remedy:
        require_inputs_of_deployed(location.store, config.service, bundle.manifest, lineage.model_version, remedy)
    champion = lineage.as_champion(time.time())
    if cluster is not None and canary is not None:
        start = partial(start_canary, cluster, bundle, canary)
        answer = hold_canary(location.store, mirror, champion, deployment, canary, reason, who(), start, check)
        _CONSOLE.print(answer, markup=False)
        _CONSOLE.print(
            f"Version {lineage.model_version} of {lineage.model_name} gets {canary} % of the requests, the champion the rest. `mistere "
            f"promote {lineage.model_name}/{lineage.model_version}` goes on from there with its live checks, `mistere rollback "
            "--unfinished` takes it back.",
            markup=False,
        )
        return
    if cluster is None:
        from components.deploy_model.endpoint_check import check_endpoint

        answer = check_endpoint(config, bundle, lineage.bundle_location, _print_step)
        release(location.store, mirror, seen, champion, deployment, action, reason, who(), check=check)
        now = " A predictor that is running serves it after a restart."
    else:
        rolling = Rolling(cluster, bundle)
        release(location.store, mirror, seen, champion, deployment, action, reason, who(), rolling, check)
        answer, now = rolling.message, f" It answers at {rolling.address}." if rolling.address else ""
        if forward := port_forward(rolling.address):
            now = f"{now[:-1]} inside the cluster; from here, forward its port: {forward}"
    _CONSOLE.print(answer, markup=False)
    before = f" instead of version {seen.champion.model_version}" if seen.champion else ""
    _CONSOLE.print(
        f"Version {lineage.model_version} of {lineage.model_name} is the champion and deployed{before}.{now}",
        markup=False,
    )


def served_deployment(store: ObjectStore) -> Deployment | None:
    """The deployment that a release changes; None if there is none yet.

    Raises:
        UsageError: there are several, and not exactly one of them serves the champion.
    """
    deployments = [read_deployment(store, service) for service in deployed_services(store)]
    champion = read_champion(store).digest
    serving = (
        [deployment for deployment in deployments if deployment.bundle_digest == champion]
        if len(deployments) > 1
        else deployments
    )
    if deployments and len(serving) != 1:
        names = ", ".join(deployment.service for deployment in deployments)
        raise UsageError(
            f"{store.uri} has several deployments ({names}), and not exactly one of them serves the champion: delete "
            f"{store.location(deployment_key('NAME'))} of those that no longer exist."
        )
    return serving[0] if serving else None


def _print_step(action: str) -> None:
    _CONSOLE.print(f"{action} …", markup=False)
