"""What the cluster says of a run: pods that cannot start, failed drivers, killed steps, a stop.

Kubeflow Pipelines reports a step without a pod as running, and of a failure neither a reason nor a message. Pods, logs and Argo's
Workflow are read through the kubeconfig, as far as it allows; without access to the cluster, a run is followed without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi, KubernetesError, connect
from pipelines.kubeflow.runs.driver_log import driver_failure, is_driver, log_command
from pipelines.kubeflow.runs.workflow import is_stopped, read_workflow, refused_pods

RUN_LABEL: Final = "pipeline/runid"
_REMEDIES: Final = {
    "ImagePullBackOff": "check that the registry has the image and that the pull secret is valid",
    "ErrImagePull": "check that the registry has the image and that the pull secret is valid",
    "InvalidImageName": "correct pipelines/images.lock.yaml",
    "CreateContainerConfigError": "create the secret that it names",
    "Unschedulable": "request less in the cluster section, or add nodes that have it",
}
_KILLS: Final = {
    "OOMKilled": "raise the step's memory in cluster.steps",
    "Evicted": "request what the step needs in cluster.steps (memory, scratch)",
    "DeadlineExceeded": "raise the step's timeout in cluster.steps",
}
_DENIED: Final = frozenset({401, 403, 404})
"""Statuses that another attempt does not change."""
_TIMEOUT: Final = (5.0, 15.0)
_RETRY_SECONDS: Final = (1.0,)
"""A run is followed meanwhile, and the next look repeats the request anyway."""
_LONGEST = 240


class RunPods:
    """The pods of one run.

    Args:
        namespace: of the run.
        run_id: of the run, in Kubeflow Pipelines.

    Attributes:
        problems: a sentence for each problem that was ever seen.
        readable: whether the kubeconfig allows to list the pods.
        stopped: whether somebody stopped the run, as far as the cluster says.
    """

    def __init__(self, namespace: str, run_id: str) -> None:
        self._namespace, self._selector = namespace, f"{RUN_LABEL}={run_id}"
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._api: KubernetesApi | None = None
        self._workflow_readable = True
        self._failures: dict[str, str] = {}
        self._drivers: set[str] = set()
        self.readable = True
        self.stopped = False
        self.problems: list[str] = []

    @property
    def command(self) -> str:
        """The command that lists the run's pods."""
        return f"kubectl --namespace {self._namespace} get pods --selector {self._selector}"

    def new_problems(self, *, final: bool = False) -> list[str]:
        """Sentences on pods that may wait forever or have failed, without those of earlier calls.

        Args:
            final: this is the last call, so a log that cannot be read for the moment is not awaited.
        """
        if not self.readable:
            return []
        try:
            api = self._api = self._api or connect(_TIMEOUT, _RETRY_SECONDS)
            pods, _ = api.list(self._path, self._selector)
            current = [*self._refusals(api), *(sentence for pod in pods for sentence in self._problem(api, pod, final))]
        except MistereError as error:
            # Without a kubeconfig or the permission to list pods it stays so; an outage passes.
            self.readable = isinstance(error, KubernetesError) and error.code not in _DENIED
            return []
        new = [sentence for sentence in dict.fromkeys(current) if sentence not in self.problems]
        self.problems += new
        return new

    def _refusals(self, api: KubernetesApi) -> list[str]:
        if not self._workflow_readable:
            return []
        try:
            workflow = read_workflow(api, self._namespace, self._selector)
        except KubernetesError as error:
            if error.code not in _DENIED:
                raise
            self._workflow_readable = False
            return []
        self.stopped = self.stopped or is_stopped(workflow)
        return [self._failures.setdefault(identity, sentence) for identity, sentence in refused_pods(workflow)]

    def _problem(self, api: KubernetesApi, pod: dict[str, Any], final: bool) -> Iterator[str]:
        phase = pod.get("status", {}).get("phase")
        if phase == "Failed" and is_driver(pod):
            yield from self._failed_driver(api, pod, final)
        elif phase == "Failed":
            yield from _kill(pod)
        elif phase == "Pending":
            yield from _delay(pod)

    def _failed_driver(self, api: KubernetesApi, pod: dict[str, Any], final: bool) -> Iterator[str]:
        name = pod["metadata"]["name"]
        if name in self._drivers:
            return
        try:
            identity, sentence = driver_failure(api, pod)
        except KubernetesError as error:
            if not (final or 400 <= error.code < 500):
                return  # the next look reads it
            why = f" ({error.code})" if error.code else ""
            identity, sentence = (
                name,
                (f"driver pod {name} failed, and its log cannot be read here{why}: {log_command(pod)} has the reason."),
            )
        self._drivers.add(name)
        yield self._failures.setdefault(identity, sentence)


def _delay(pod: dict[str, Any]) -> Iterator[str]:
    """Why a pod has not started; its last container may wait for the image, its first one for a secret."""
    unscheduled = [entry for entry in pod["status"].get("conditions") or [] if entry.get("type") == "PodScheduled"]
    waiting = [entry.get("state", {}).get("waiting") or {} for entry in _containers(pod)]
    for entry in [*unscheduled, *waiting]:
        reason = entry.get("reason", "")
        if reason in _REMEDIES:
            yield f"pod {pod['metadata']['name']} waits: {reason}{_detail(entry)}: {_REMEDIES[reason]}."
            return


def _kill(pod: dict[str, Any]) -> Iterator[str]:
    """Which limit ended a pod. A process that is killed records no reason itself."""
    ended = [entry.get("state", {}).get("terminated") or {} for entry in _containers(pod)]
    for entry in [pod["status"], *ended]:
        reason = entry.get("reason", "")
        if reason in _KILLS:
            yield f"pod {pod['metadata']['name']} was killed: {reason}{_detail(entry)}: {_KILLS[reason]}."
            return


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    status = pod["status"]
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _detail(entry: dict[str, Any]) -> str:
    detail = redact_url(" ".join(entry.get("message", "").split())).rstrip(".")[:_LONGEST]
    return f" ({detail})" if detail else ""
