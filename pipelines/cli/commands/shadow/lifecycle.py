"""``mistere shadow start``, ``promote`` and ``stop``."""

from __future__ import annotations

import math
import time

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.artifacts.signing import verify_bundle
from mistere.common.counting import counted
from mistere.common.errors import MistereError, UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import connect
from mistere.registry.release.candidates import standing
from mistere.registry.release.model_inputs import require_inputs_of_deployed
from mistere.registry.release.promotion_log import who
from mistere.runs.shadow_comparison import compare_shadow, require_shadow
from mistere.serving.deployment import Deployment
from mistere.serving.kserve.bundle_needs import bundle_needs
from mistere.serving.kserve.cluster_release import on_cluster
from mistere.serving.kserve.rollout import ClusterDeployment
from mistere.serving.kserve.shadow_rollout import require_copies, start_shadow, stop_shadow
from mistere.serving.shadow.pointer import Shadow, find_shadow, remove_shadow, write_shadow
from mistere.serving.shadow.summary import MAX_ERRORS, MIN_AGREEMENT, shown_share
from pipelines.cli.commands.registry.decide import approve
from pipelines.cli.commands.registry.promote import promote, served_deployment, why_not_released
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.registry_location import RegistryLocation

_CONSOLE = OutputConsole(highlight=False, soft_wrap=True)
_WINDOW = "92d"


def start(location: RegistryLocation, reference: str, model_name: str, *, other_inputs: bool = False) -> None:
    """Serve a version as the shadow of the deployed one; a shadow that runs is replaced.

    Args:
        location: store and registry.
        reference: the version.
        model_name: the model, where the reference names none.
        other_inputs: start it even if it does not understand the requests of the deployed version's clients.

    Raises:
        UsageError: nothing is deployed, the version is deployed already or reads other inputs, or the deployed predictor copies no requests.
        MistereError: the version was rejected, is not signed, or its smoke test failed.
    """
    version, lineage = location.find(reference, model_name)
    store = location.store
    front = deployed(store)
    if front.bundle_digest == lineage.bundle_digest:
        raise UsageError(
            f"version {version.version} of {version.name} is deployed: a shadow compares another version with it."
        )
    stands = standing(store, version.bundle_digest)
    if stands.state == "rejected":
        raise MistereError(
            f"version {version.version} of {version.name} {why_not_released(stands)}: decide on it again with `mistere approve`, or "
            "start another one."
        )
    config = DeploymentConfig.model_validate(front.settings) if front.mode != "local" else DeploymentConfig()
    bundle = open_artifact(store, ModelBundle, lineage.bundle_digest)
    verify_bundle(store, bundle, config.bundle_key)
    if not other_inputs:
        remedy = "--other-inputs starts it all the same, and compares what it answers"
        require_inputs_of_deployed(store, front.service, bundle.manifest, lineage.model_version, remedy)
    deployment = Deployment(
        service=front.service,
        bundle_location=lineage.bundle_location,
        bundle_digest=lineage.bundle_digest,
        model_version=lineage.model_version,
    )
    if front.mode != "local":
        require_copies(config)
        deployment = on_cluster(deployment, config, front.image, bundle_needs(store, bundle.manifest))
    shadow = Shadow(deployment=deployment, model_name=lineage.model_name, started_at=time.time(), by=who())
    write_shadow(store, shadow)  # first, so that `stop` finds a shadow whose start was interrupted
    if front.mode != "local":
        try:
            answer = start_shadow(ClusterDeployment(connect(), deployment, _print_step), bundle)
        except BaseException:
            remove_shadow(store, front.service)
            raise
        _print(answer)
    how = (
        "The deployed predictor copies requests"
        if front.mode != "local"
        else "`mistere serve --shadow local` copies requests"
    )
    _print(
        f"Version {version.version} of {version.name} is the shadow of {front.service}. {how} to it; `mistere shadow report` compares."
    )


def stop(location: RegistryLocation) -> None:
    """Remove the shadow; what was compared stays in the store.

    Raises:
        UsageError: there is none.
        MistereError: the cluster does not answer.
    """
    front = deployed(location.store)
    try:
        shadow = find_shadow(location.store, front.service)
    except MistereError:  # damaged: that is what a stop is for
        named = "The shadow"
    else:
        if shadow is None:
            raise UsageError(f"{front.service} has no shadow.")
        named = f"The shadow {shadow.named}"
    _remove(location.store, front)
    _print(f"{named} of {front.service} is removed; no more requests are copied.")


def promote_shadow(location: RegistryLocation, reason: str, *, other_inputs: bool = False) -> None:
    """Release the shadow's version as `mistere promote` or, if it waits for a person, as `mistere approve` does, and remove the shadow.

    Args:
        location: store and registry.
        reason: for the log; the comparison is added.
        other_inputs: release it even if it does not understand the requests of the deployed version's clients.

    Raises:
        UsageError: there is no shadow, or it reads other inputs than the deployed version.
        MistereError: the version may not be released, its smoke test failed, or the champion changed meanwhile; the shadow stays.
    """
    store = location.store
    front = deployed(store)
    shadow = require_shadow(store, front.service)
    version = f"{shadow.model_name}/{shadow.deployment.model_version}"
    waits = standing(store, shadow.deployment.bundle_digest).state == "waiting"
    if waits and not reason.strip():
        raise UsageError(f"{version} waits for a person: say why with --reason.")
    said = " ".join(reason.split()) or "Promoted from the shadow."
    said = f"{said.rstrip('.')}. {_compared(store, front)}".strip()
    release = approve if waits else promote
    release(location, version, shadow.model_name, said, other_inputs=other_inputs)
    _remove(store, front)
    _print(f"The shadow of {front.service} is removed.")


def deployed(store: ObjectStore) -> Deployment:
    """The deployment whose requests are copied.

    Raises:
        UsageError: nothing is deployed, or several services serve the champion.
    """
    front = served_deployment(store)
    if front is None:
        raise UsageError(f"nothing is deployed in {store.uri}, so there is nothing to shadow: run `mistere run` first.")
    return front


def _compared(store: ObjectStore, front: Deployment) -> str:
    """The agreement as a sentence for the log; empty if nothing was compared."""
    try:
        summary = compare_shadow(store, front, _WINDOW, MIN_AGREEMENT, MAX_ERRORS).summary
    except MistereError:
        return ""
    same = summary.agreement
    return (
        "" if math.isnan(same.value) else f"As a shadow it agreed on {shown_share(same)} of {counted(same.of, 'turn')}."
    )


def _remove(store: ObjectStore, front: Deployment) -> None:
    if front.mode != "local":
        stop_shadow(connect(), DeploymentConfig.model_validate(front.settings))
    remove_shadow(store, front.service)


def _print(sentence: str) -> None:
    _CONSOLE.print(sentence, markup=False)


def _print_step(action: str) -> None:
    _print(f"{action} …")
