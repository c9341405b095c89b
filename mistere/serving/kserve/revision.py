"""The pods of one revision of an InferenceService: whether one is ready, and if none is, why.

An InferenceService reports Ready=True even while its new revision crash-loops beside the old one, so readiness is read from the
pods, which are selected by the service's name and the revision's label.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi
from mistere.serving import protocol
from mistere.serving.client import DialogueClient
from mistere.serving.kserve.inference_service import REVISION_LABEL
from mistere.serving.kserve.lease import RenewLease

WATCH_SECONDS: Final = 5.0
"""Longest time between two looks at the cluster while waiting."""
_PASSING_REFUSAL: Final = "the object has been modified"
"""In the refusal of a pod while another pod was counted in the same quota; the ReplicaSet tries again."""
_SERVICE_LABEL: Final = "serving.kserve.io/inferenceservice"
_CONTAINER: Final = "kserve-container"
_FATAL_REASONS: Final = {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
_RESTARTS: Final = 2
_OUT_OF_MEMORY: Final = "OOMKilled"
_ANSWER_SECONDS: Final = 60.0
_METRICS_PATH, _METRICS_SECONDS = "/metrics", 10.0
_EVENTS, _LINES, _MAX_LENGTH = 3, 3, 160


@dataclass(frozen=True)
class Revision:
    """A revision of a service."""

    api: KubernetesApi
    namespace: str
    service: str
    revision: str

    @property
    def pods_path(self) -> str:
        """The API path of the namespace's pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def selector(self) -> str:
        """The label selector of the revision's pods."""
        return f"{_SERVICE_LABEL}={self.service},{REVISION_LABEL}={self.revision}"

    def pods(self) -> tuple[list[dict[str, Any]], str]:
        """The pods that are not being deleted, newest first, and the version for :meth:`wait`."""
        items, version = self.api.list(self.pods_path, self.selector)
        living = [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]
        return sorted(living, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True), version

    def wait(self, version: str, seconds: float) -> None:
        """Wait until a pod changes, at most ``seconds``."""
        self.api.wait_for_change(self.pods_path, version, seconds, selector=self.selector)

    def client(self, pod: dict[str, Any], model: str, *, grpc: bool) -> DialogueClient:
        """A client of one pod: at the pod's address inside the cluster, by REST through the API server elsewhere."""
        if self.api.inside:
            host = _host(pod)
            target = f"{host}:{protocol.GRPC_PORT}" if grpc else None
            return DialogueClient(f"http://{host}:{protocol.HTTP_PORT}", target, model, _ANSWER_SECONDS)
        url, headers, verify = self.api.proxy(self._port(pod))
        return DialogueClient(url, None, model, _ANSWER_SECONDS, headers, verify)

    def metrics(self, pod: dict[str, Any]) -> str:
        """The Prometheus metrics of one pod, reached as by :meth:`client`.

        Raises:
            MistereError: it does not answer, or these credentials may not use the API server's proxy.
        """
        if not self.api.inside:
            return self.api.text(f"{self._port(pod)}/proxy{_METRICS_PATH}")
        import httpx

        url = f"http://{_host(pod)}:{protocol.HTTP_PORT}{_METRICS_PATH}"
        try:
            response = httpx.get(url, timeout=_METRICS_SECONDS, trust_env=False)
            response.raise_for_status()
        except httpx.HTTPError as error:
            raise MistereError(
                f"the metrics of pod {pod['metadata']['name']} cannot be read ({type(error).__name__})."
            ) from error
        return response.text

    def _port(self, pod: dict[str, Any]) -> str:
        """The API path of a pod's REST port."""
        return f"{self.pods_path}/{pod['metadata']['name']}:{protocol.HTTP_PORT}"

    def explain(self, pods: list[dict[str, Any]]) -> str:
        """Explain why the pods are not ready: state, last events and last lines of the log, as part of a sentence."""
        pod = next((pod for pod in pods if not is_ready(pod)), pods[0] if pods else None)
        parts = [f"pod {pod['metadata']['name']}: {_state(pod)}" if pod else "it has no pod"]
        with suppress(MistereError):  # without the right to read events, report the rest
            events = self._events(pod["metadata"]["name"] if pod else "")
            if events:
                parts.append(f"last events: {' / '.join(events)}")
        if pod is not None:
            lines = self._log(pod)
            if lines:
                parts.append(f"its last lines: {' / '.join(lines)}")
        return "; ".join(parts)

    def rejected_pods(self) -> dict[str, str]:
        """Events of a ReplicaSet of the service that cannot create a pod: their sentences, by the event's name and version.

        The version distinguishes what a controller reports now from what it reported about an earlier attempt.
        """
        try:
            events, _ = self.api.list(self._events_path, fields="reason=FailedCreate")
        except (
            MistereError
        ):  # without the right to read events, the Deployment's status has the reason in Standard mode
            return {}
        owned = [event for event in events if _about(event).startswith(f"{self.service}-predictor-")]
        return {
            f"{event['metadata']['name']} {event['metadata']['resourceVersion']}": str(event.get("message", ""))
            for event in owned
        }

    def refusal(self, known: dict[str, str], workload: str = "") -> str:
        """Why the cluster creates no pods of a revision (a quota, a policy); empty if it does, or has not tried.

        Args:
            known: events of earlier attempts, as :meth:`rejected_pods` returned them.
            workload: the API path of the Deployment that creates them; empty for none.
        """
        messages: list[str] = []
        if workload:
            deployment = self.api.get(workload) or {}
            messages += [
                str(condition.get("message", ""))
                for condition in deployment.get("status", {}).get("conditions") or []
                if condition["type"] == "ReplicaFailure" and condition["status"] == "True"
            ]
        if not messages:
            events = self.rejected_pods()
            messages += [message for event, message in events.items() if event not in known]
        messages = [message for message in messages if _PASSING_REFUSAL not in message]
        return f"the cluster rejects its pods ({' '.join(messages[-1].split())[:300]})" if messages else ""

    def watch(
        self,
        seconds: float,
        renew_lease: RenewLease,
        look: Callable[[], object] = lambda: None,
        restarted: int | None = None,
    ) -> list[dict[str, Any]]:
        """Watch the pods for a while.

        Args:
            seconds: how long.
            renew_lease: called at every look.
            look: called at every look, at least every few seconds; an exception ends the watch.
            restarted: how often its pods had restarted; None to count from now.

        Returns:
            The pods, as soon as one restarts or fails; empty if none does.
        """
        pods, version = self.pods()
        before = restarts(pods) if restarted is None else restarted
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            renew_lease()
            self.wait(version, min(WATCH_SECONDS, left))
            pods, version = self.pods()
            if restarts(pods) > before or any(has_failed(pod) for pod in pods):
                return pods
            look()
        return []

    def wait_until_gone(self, seconds: float, renew_lease: RenewLease) -> None:
        """Wait until its pods are gone, at most ``seconds``, because they count in the namespace's quota until then."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            pods, version = self.api.list(self.pods_path, self.selector)
            if not pods:
                return
            renew_lease()
            self.wait(version, min(WATCH_SECONDS, left))

    @property
    def _events_path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/events"

    def _events(self, pod: str) -> list[str]:
        """The events of a pod; without a pod, those of the service and of the objects that should create its pods."""
        events, _ = self.api.list(self._events_path, fields=f"involvedObject.name={pod}" if pod else "")
        if not pod:
            owners = f"{self.service}-predictor"
            events = [event for event in events if _about(event) == self.service or _about(event).startswith(owners)]
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return [_short(f"{event.get('reason', '')}: {event.get('message', '')}") for event in events[-_EVENTS:]]

    def _log(self, pod: dict[str, Any]) -> list[str]:
        """The last lines of the failed attempt: of the previous container if the current one waits for a restart."""
        restarting = _container(pod).get("restartCount", 0) > 0 and "running" not in _container(pod).get("state", {})
        for previous in (True, False) if restarting else (False,):
            with suppress(MistereError):
                log = self.api.text(
                    f"{self.pods_path}/{pod['metadata']['name']}/log",
                    container=_CONTAINER,
                    tailLines=_LINES,
                    previous="true" if previous else "false",
                )
                if log.strip():
                    return [_short(line) for line in log.strip().splitlines()[-_LINES:]]
        return []


def _host(pod: dict[str, Any]) -> str:
    """A pod's address as a host of a URL."""
    address = str(pod["status"]["podIP"])
    return f"[{address}]" if ":" in address else address


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod accepts requests."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def has_failed(pod: dict[str, Any]) -> bool:
    """Whether a pod has failed in a way that waiting does not change."""
    status = _container(pod)
    waiting = status.get("state", {}).get("waiting", {}).get("reason", "")
    hopeless = status.get("restartCount", 0) >= _RESTARTS or _was_out_of_memory(
        pod
    )  # the same model needs as much again
    return waiting in _FATAL_REASONS or (waiting == "CrashLoopBackOff" and hopeless)


def restarts(pods: list[dict[str, Any]]) -> int:
    """The number of restarts of the pods' containers."""
    return sum(int(_container(pod).get("restartCount", 0)) for pod in pods)


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == _CONTAINER), {})


def _about(event: dict[str, Any]) -> str:
    return str(event.get("involvedObject", {}).get("name", ""))


def _was_out_of_memory(pod: dict[str, Any]) -> bool:
    """Whether the container's last process was killed for its memory.

    While the container waits for its restart, the kubelet reports CrashLoopBackOff as the state, and why it ended in
    ``lastState``.
    """
    status = _container(pod)
    ends = [(status.get(name) or {}).get("terminated") or {} for name in ("state", "lastState")]
    return any(end.get("reason") == _OUT_OF_MEMORY for end in ends)


def _memory_limit(pod: dict[str, Any]) -> str:
    containers = pod.get("spec", {}).get("containers") or []
    limits = [one.get("resources", {}).get("limits", {}) for one in containers if one.get("name") == _CONTAINER]
    return next((f" of {limit['memory']}" for limit in limits if "memory" in limit), "")


def _state(pod: dict[str, Any]) -> str:
    if _was_out_of_memory(pod) and not is_ready(pod):
        return f"{_OUT_OF_MEMORY}, it exceeded its memory limit{_memory_limit(pod)}: raise deployment.memory_limit"
    for kind in ("waiting", "terminated"):
        state = _container(pod).get("state", {}).get(kind)
        if state:
            message = f" ({_short(state['message'])})" if state.get("message") else ""
            code = f" with exit code {state['exitCode']}" if "exitCode" in state else ""
            return f"{state.get('reason', kind)}{code}{message}"
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"{condition.get('reason', 'not scheduled')} ({_short(condition.get('message', ''))})"
    return "running, not ready" if not is_ready(pod) else "ready"


def _short(text: str) -> str:
    line = redact_url(" ".join(text.split())).rstrip(".")
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]}…"
