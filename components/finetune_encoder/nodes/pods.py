"""The pods of a TrainJob's nodes: forwards their logs and reports what delays them."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from components.finetune_encoder.nodes.train_job import CONTAINER, POD_LABEL
from mistere.common.errors import MistereError
from mistere.common.progress import Progress
from mistere.kubernetes.api import KubernetesApi, KubernetesError

_INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"
_HOPELESS: Final = {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
_REFUSED_REASON: Final = "FailedCreate"
_REFUSED: Final = "is forbidden: "
"""In the message of the job controller's event: ``Error creating: pods "…" is forbidden: exceeded quota: …``."""
_SECONDS_WITHOUT_PODS: Final = 60.0
_LINES, _LONGEST = 3, 160


class NodePods:
    """The pods of one TrainJob.

    Args:
        api: the cluster.
        namespace: the TrainJob's.
        train_job: its name.
        modality: names the settings in messages.
        progress: gets each note once.
    """

    def __init__(self, api: KubernetesApi, namespace: str, train_job: str, modality: str, progress: Progress) -> None:
        self._api, self._train_job, self._modality, self._progress = api, train_job, modality, progress
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._events_path = f"/api/v1/namespaces/{namespace}/events"
        self._refused: set[str] = set()
        self._pods: list[dict[str, Any]] = []
        self._read_until: dict[str, str] = {}
        self._restarts: dict[str, int] = {}
        self._last: dict[str, deque[str]] = {}
        self._noted: set[str] = set()
        self._logs_refused = False
        self._began = time.monotonic()

    def look(self) -> None:
        """Read the pods' states and forward new lines of their logs.

        Raises:
            MistereError: a pod cannot train.
        """
        pods, _ = self._api.list(self._path, f"{POD_LABEL}={self._train_job}")
        self._pods = sorted(pods, key=_name)
        for pod in self._pods:
            self._forward_log(pod)
        for pod in self._pods:
            self._check(pod)
        self._check_all()

    def expect(self, nodes: int, created: str, *, suspended: bool) -> None:
        """Note why there may be no pods yet, or fewer than nodes.

        Args:
            nodes: of the TrainJob.
            created: its timestamp, as in the object.
            suspended: whether it waits in a queue.
        """
        if suspended:
            self._note(f"TrainJob {self._train_job} is suspended: it waits in a queue for its turn.")
            return
        if len(self._pods) < nodes:
            for sentence in self._refusals(created):
                self._note(sentence)
        if not self._pods and not self._refused and time.monotonic() - self._began > _SECONDS_WITHOUT_PODS:
            self._note(
                f"TrainJob {self._train_job} has no pods yet: kubectl describe jobs -l {POD_LABEL}={self._train_job} says why "
                "(a quota, a policy)."
            )

    def _refusals(self, created: str) -> list[str]:
        """Why the cluster refuses pods of the TrainJob: such a pod has no object, only an event of the Job that creates it.

        An earlier attempt of the step had a TrainJob of the same name, whose events Kubernetes keeps for an hour.
        """
        try:
            events, _ = self._api.list(self._events_path, fields=f"reason={_REFUSED_REASON}")
        except KubernetesError as error:
            if error.code not in {401, 403}:
                raise
            return []  # without the right to read events, the advice remains
        messages = [
            " ".join(str(event.get("message", "")).split()).partition(_REFUSED)[2]
            for event in events
            if str(event.get("involvedObject", {}).get("name", "")).startswith(f"{self._train_job}-")
            and str(event.get("lastTimestamp") or event.get("eventTime") or created) >= created
        ]
        # The requested pod differs with each attempt, and the used amount over time: one sentence for each quota or policy.
        reasons = {reason.partition(",")[0]: reason for reason in messages if reason}
        new = {name: reason for name, reason in reasons.items() if name not in self._refused}
        self._refused |= new.keys()
        return [
            f"the cluster refuses pods of TrainJob {self._train_job}: {reason.rstrip('.')}: "
            f"{'raise the quota' if 'quota' in reason else 'change that policy'}, or change {self._modality}.nodes."
            for reason in new.values()
        ]

    def why(self) -> str:
        """The last lines of the pods that ended with an error."""
        parts = []
        for pod in self._pods:
            ended = _ended(pod)
            if ended.get("exitCode"):
                lines = " / ".join(self._last.get(_name(pod), ()))
                parts.append(f"{_node(pod)} ended with exit code {ended['exitCode']}{f': {lines}' if lines else ''}")
        return "; ".join(parts[:_LINES])

    def _forward_log(self, pod: dict[str, Any]) -> None:
        """Forward new lines of a pod's log; after a restart, first the remaining lines of the previous container."""
        restarts = int(_container(pod).get("restartCount", 0))
        if restarts > self._restarts.get(_name(pod), 0):
            self._read_log(pod, previous="true")
        self._restarts[_name(pod)] = restarts
        self._read_log(pod)

    def _read_log(self, pod: dict[str, Any], **of: str) -> None:
        name = _name(pod)
        query = {"container": CONTAINER, "timestamps": "true", **of}
        if name in self._read_until:
            query["sinceTime"] = self._read_until[name]
        try:
            text = self._api.text(f"{self._path}/{name}/log", **query)
        except KubernetesError as error:
            if error.code in {401, 403}:
                if not self._logs_refused:  # the API's message names the pod, so each would be noted
                    self._note(f"the nodes' logs are not passed on: {error}")
                self._logs_refused = True
            elif error.code not in {400, 404}:  # not started yet, or gone
                raise
            return
        for line in text.splitlines():
            stamp, _, content = line.partition(" ")
            if stamp <= self._read_until.get(name, ""):
                continue
            self._read_until[name] = stamp
            print(f"{_node(pod)}: {content}", flush=True)
            if content.strip():
                self._last.setdefault(name, deque(maxlen=_LINES)).append(content.strip()[:_LONGEST])

    def _check(self, pod: dict[str, Any]) -> None:
        waiting = _container(pod).get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            reason = " ".join(str(waiting.get("message", "")).split())[:_LONGEST]
            raise MistereError(
                f"{_node(pod)} of TrainJob {self._train_job} cannot start ({waiting['reason']}{f': {reason}' if reason else ''}): check "
                "that the cluster can pull the image and that the secrets exist."
            )
        if _ended(pod).get("reason") == "OOMKilled":
            raise MistereError(
                f"{_node(pod)} of TrainJob {self._train_job} exceeded its memory limit: raise {self._modality}.nodes.memory, or lower "
                f"{self._modality}.batch_size and raise {self._modality}.accumulation."
            )
        for condition in pod.get("status", {}).get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                reason = " ".join(str(condition.get("message", "")).split()).rstrip(".")
                self._note(f"{_node(pod)} of TrainJob {self._train_job} waits for a machine ({reason[:_LONGEST]}).")

    def _check_all(self) -> None:
        done = [str(_ended(pod).get("finishedAt", "")) for pod in self._pods if _ended(pod).get("exitCode") == 0]
        for pod in self._pods:
            ended = _ended(pod)
            if done and ended.get("exitCode") and str(ended.get("finishedAt", "")) > min(done):
                raise MistereError(
                    f"{_node(pod)} of TrainJob {self._train_job} failed after others had finished, and cannot train alone: run again "
                    "to resume from the last checkpoint."
                )

    def _note(self, message: str) -> None:
        if message not in self._noted:
            self._noted.add(message)
            self._progress.note(message)


def _name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def _node(pod: dict[str, Any]) -> str:
    index = (pod["metadata"].get("labels") or {}).get(_INDEX_LABEL)
    return _name(pod) if index is None else f"node {index}"


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == CONTAINER), {})


def _ended(pod: dict[str, Any]) -> dict[str, Any]:
    """The container's last termination; empty if it never terminated."""
    status = _container(pod)
    for state in ("state", "lastState"):
        ended: dict[str, Any] = (status.get(state) or {}).get("terminated") or {}
        if ended:
            return ended
    return {}
