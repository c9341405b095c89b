"""What a run that was stopped or killed left on the cluster: a release half way, nodes that train for nobody.

Kubeflow Pipelines stops a step's process without waiting for it, so what the step itself would have put away is put away here,
by the exit handler, which runs in every case. Elsewhere there is nothing to do: the next run takes back what it finds.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from mistere.common.errors import MistereError
from mistere.kubernetes.current_pod import TRAINER_API, current_pod, is_inside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mistere.engine.stage import Step
    from mistere.kubernetes.api import KubernetesApi


def clean_up(step: Step, config: Mapping[str, Any]) -> None:
    """Finish or take back this run's own release, and delete TrainJobs of its workflow; what fails is noted.

    Args:
        step: the exit handler's execution.
        config: the run's configuration, by section.
    """
    if not is_inside():
        return
    several_nodes = any(int((config.get(name) or {}).get("num_nodes", 1)) > 1 for name in ("speech", "text"))
    for work in (_release, _train_jobs) if several_nodes else (_release,):
        try:
            for said in work(step):
                step.progress.note(said)
        except MistereError as error:
            step.progress.note(f"what the run left on the cluster is not put away: {error}")


def _release(step: Step) -> list[str]:
    from mistere.registry.model_registry import mirror_champion
    from mistere.registry.release import open_release, recover_patiently

    service = open_release(step.store, step.run.run_id)
    if not service:
        return []
    return [recover_patiently(step.store, partial(mirror_champion, step.run.tracking_uri), service)]


def _train_jobs(_step: Step) -> list[str]:
    from mistere.kubernetes.api import KubernetesError, connect

    api = connect()
    pod = current_pod(api)
    namespace = str(pod["metadata"]["namespace"])
    collection = f"/apis/{TRAINER_API}/namespaces/{namespace}/trainjobs"
    try:
        left = _of_the_same_owner(api, collection, pod)
    except KubernetesError as error:
        if error.code == 404:  # there is no Kubeflow Trainer
            return []
        raise
    for name in left:
        api.delete(f"{collection}/{name}", dependents_first=True)
    return [f"TrainJob {name} was still there and is deleted." for name in left]


def _of_the_same_owner(api: KubernetesApi, collection: str, pod: dict[str, object]) -> list[str]:
    mine = _owners(pod)
    return [str(one["metadata"]["name"]) for one in api.list(collection)[0] if mine & _owners(one)]


def _owners(thing: dict[str, object]) -> set[str]:
    metadata = thing["metadata"]
    assert isinstance(metadata, dict)
    return {str(owner["uid"]) for owner in metadata.get("ownerReferences") or []}
