"""The pods of one revision of an InferenceService: whether one is ready, and why none is.

An InferenceService says Ready=True while its new revision crash-loops beside the old one. Pods cannot: they are found by the
service's name and the revision's label.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi
from mistere.serving import protocol
from mistere.serving.client import DialogueClient
from mistere.serving.kserve.inference_service import REVISION_LABEL

_SERVICE_LABEL: Final = "serving.kserve.io/inferenceservice"
_CONTAINER: Final = "kserve-container"
_HOPELESS: Final = {"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
_RESTARTS: Final = 2
_ANSWER_SECONDS: Final = 60.0
_EVENTS, _LINES, _LONGEST = 3, 3, 160


@dataclass(frozen=True)
class Revision:
    """A revision of a service, by what its pods are called."""

    api: KubernetesApi
    namespace: str
    service: str
    revision: str

    @property
    def pods_path(self) -> str:
        """The namespace's pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    @property
    def selector(self) -> str:
        """What selects the revision's pods."""
        return f"{_SERVICE_LABEL}={self.service},{REVISION_LABEL}={self.revision}"

    def pods(self) -> tuple[list[dict[str, Any]], str]:
        """Those that are not being removed, newest first, and the version for :meth:`wait`."""
        items, version = self.api.list(self.pods_path, self.selector)
        living = [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]
        return sorted(living, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True), version

    def wait(self, version: str, seconds: float) -> None:
        """Wait until something changed about them."""
        self.api.wait_for_change(self.pods_path, version, seconds, selector=self.selector)

    def client(self, pod: dict[str, Any], model: str, *, grpc: bool) -> DialogueClient:
        """A client of one pod: at its own address in the cluster, by REST through the API server elsewhere."""
        if self.api.inside:
            address = pod["status"]["podIP"]
            host = f"[{address}]" if ":" in address else address
            target = f"{host}:{protocol.GRPC_PORT}" if grpc else None
            return DialogueClient(f"http://{host}:{protocol.HTTP_PORT}", target, model, _ANSWER_SECONDS)
        url, headers, verify = self.api.proxy(f"{self.pods_path}/{pod['metadata']['name']}:{protocol.HTTP_PORT}")
        return DialogueClient(url, None, model, _ANSWER_SECONDS, headers, verify)

    def why(self, pods: list[dict[str, Any]]) -> str:
        """The end of a sentence on what holds them up: states, the last events, the log's last lines; no more than a few."""
        pod = next((pod for pod in pods if not is_ready(pod)), pods[0] if pods else None)
        parts = [f"pod {pod['metadata']['name']}: {_state(pod)}" if pod else "it has no pod"]
        with suppress(MistereError):  # the reason of the failure is worth more than that of a right that is lacking
            events = self._events(pod["metadata"]["name"] if pod else "")
            if events:
                parts.append(f"last events: {' / '.join(events)}")
        if pod is not None:
            lines = self._log(pod)
            if lines:
                parts.append(f"its last lines: {' / '.join(lines)}")
        return "; ".join(parts)

    def _events(self, pod: str) -> list[str]:
        """A pod's; where there is none, those of the service and of what should make its pods."""
        events, _ = self.api.list(
            f"/api/v1/namespaces/{self.namespace}/events", fields=f"involvedObject.name={pod}" if pod else ""
        )
        if not pod:
            makers = f"{self.service}-predictor"
            events = [event for event in events if _about(event) == self.service or _about(event).startswith(makers)]
        events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return [_short(f"{event.get('reason', '')}: {event.get('message', '')}") for event in events[-_EVENTS:]]

    def _log(self, pod: dict[str, Any]) -> list[str]:
        """Of the attempt that failed: the container before the one that waits to be started again."""
        before = _container(pod).get("restartCount", 0) > 0 and "running" not in _container(pod).get("state", {})
        for previous in (True, False) if before else (False,):
            with suppress(MistereError):
                said = self.api.text(
                    f"{self.pods_path}/{pod['metadata']['name']}/log",
                    container=_CONTAINER,
                    tailLines=_LINES,
                    previous="true" if previous else "false",
                )
                if said.strip():
                    return [_short(line) for line in said.strip().splitlines()[-_LINES:]]
        return []


def is_ready(pod: dict[str, Any]) -> bool:
    """Whether a pod takes requests."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def is_hopeless(pod: dict[str, Any]) -> bool:
    """Whether waiting longer for a pod would change nothing."""
    status = _container(pod)
    waiting = status.get("state", {}).get("waiting", {}).get("reason", "")
    return waiting in _HOPELESS or (waiting == "CrashLoopBackOff" and status.get("restartCount", 0) >= _RESTARTS)


def restarts(pods: list[dict[str, Any]]) -> int:
    """How often their containers were started again."""
    return sum(int(_container(pod).get("restartCount", 0)) for pod in pods)


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status.get("name") == _CONTAINER), {})


def _about(event: dict[str, Any]) -> str:
    return str(event.get("involvedObject", {}).get("name", ""))


def _state(pod: dict[str, Any]) -> str:
    for kind in ("waiting", "terminated"):
        state = _container(pod).get("state", {}).get(kind)
        if state:
            said = f" ({_short(state['message'])})" if state.get("message") else ""
            code = f" with exit code {state['exitCode']}" if "exitCode" in state else ""
            return f"{state.get('reason', kind)}{code}{said}"
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"{condition.get('reason', 'not scheduled')} ({_short(condition.get('message', ''))})"
    return "running, not ready" if not is_ready(pod) else "ready"


def _short(text: str) -> str:
    line = redact_url(" ".join(text.split())).rstrip(".")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
