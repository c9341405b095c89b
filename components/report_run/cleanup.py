"""Clean up after a stopped or killed run: an unfinished release and, on a cluster, TrainJobs that nobody waits for.

Kubeflow Pipelines kills a step's process without a grace period, and so does the kernel where memory runs out: the exit handler, which
always runs, cleans up instead of the step.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mistere.common.errors import MistereError, why
from mistere.config.modalities import modalities_of
from mistere.kubernetes.current_pod import TRAINER_API, current_pod, is_inside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mistere.engine.stage import Step
    from mistere.kubernetes.api import KubernetesApi


def interrupted_release(step: Step) -> str:
    """A sentence on the release that this run has left unfinished; empty if it has left none."""
    from mistere.registry.release.unfinished import unfinished_releases

    try:
        releases = unfinished_releases(step.store)
    except MistereError:  # the cleanup tries again and says why it fails
        return ""
    own = [
        replace(one, alive=False) for one in releases if one.journal.unfinished and one.journal.is_of(step.run.run_id)
    ]
    return own[0].sentence() if own else ""


def clean_up(step: Step, config: Mapping[str, Any]) -> str:
    """Complete or roll back the release of this run, and delete the TrainJobs of its workflow; failures are only noted.

    Args:
        step: this execution of the exit handler.
        config: the run's configuration, by section.

    Returns:
        What has become of the release, as a sentence; empty if there was nothing to do.
    """
    release = ""
    try:
        release = _release(step)
    except (MistereError, ValueError) as error:  # the latter: settings of another version of this package
        release = f"{interrupted_release(step)} This could not be done yet: {why(error)}".strip()
    if release:
        step.progress.note(release)
    if not is_inside():
        return release
    try:
        for sentence in _train_jobs() if _uses_trainjobs(config) else ():
            step.progress.note(sentence)
    except MistereError as error:
        step.progress.note(f"the cleanup of the run's cluster resources failed: {error}")
    return release


def _uses_trainjobs(config: Mapping[str, Any]) -> bool:
    sections = [config.get(name) or {} for name in modalities_of(config)]
    return any(
        int(section.get("num_nodes", 1)) > 1 or (section.get("nodes") or {}).get("trainjob") for section in sections
    )


def _release(step: Step) -> str:
    from mistere.registry.mlflow.model_registry import mirror_champion
    from mistere.registry.release.recovery import open_release, recover_patiently

    service = open_release(step.store, step.run.run_id)
    return recover_patiently(step.store, partial(mirror_champion, step.run.tracking_uri), service) if service else ""


def _train_jobs() -> list[str]:
    from mistere.kubernetes.api import KubernetesError, connect

    api = connect()
    pod = current_pod(api)
    namespace = str(pod["metadata"]["namespace"])
    collection = f"/apis/{TRAINER_API}/namespaces/{namespace}/trainjobs"
    try:
        names = _of_the_same_owner(api, collection, pod)
    except KubernetesError as error:
        if error.code == 404:  # Kubeflow Trainer is not installed
            return []
        raise
    for name in names:
        api.delete(f"{collection}/{name}", dependents_first=True)
    return [f"TrainJob {name} was still running and was deleted." for name in names]


def _of_the_same_owner(api: KubernetesApi, collection: str, pod: dict[str, object]) -> list[str]:
    owners = _owners(pod)
    return [str(item["metadata"]["name"]) for item in api.list(collection)[0] if owners & _owners(item)]


def _owners(manifest: dict[str, object]) -> set[str]:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return {str(owner["uid"]) for owner in metadata.get("ownerReferences") or []}
