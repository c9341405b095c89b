"""What holds up the pods of a run: an image, a machine, a secret. Kubeflow Pipelines calls such a step running, and says no more.

They are looked at through the kubeconfig. Who has none, or none of that cluster, follows a run without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi, connect

RUN_LABEL: Final = "pipeline/runid"
_HELD_UP: Final = {
    "ImagePullBackOff": "see that the image is in its registry and that the pull secret is right",
    "ErrImagePull": "see that the image is in its registry and that the pull secret is right",
    "InvalidImageName": "correct pipelines/images.lock.yaml",
    "CreateContainerConfigError": "make the secret that it names",
    "Unschedulable": "ask for less in the cluster section, or add machines that have it",
}
_LONGEST = 240


class RunPods:
    """The pods of one run.

    Args:
        namespace: of the run.
        run_id: of the run, in Kubeflow Pipelines.
    """

    def __init__(self, namespace: str, run_id: str) -> None:
        self._path, self._selector = f"/api/v1/namespaces/{namespace}/pods", f"{RUN_LABEL}={run_id}"
        self._api: KubernetesApi | None = None
        self._usable = True
        self.troubles: list[str] = []

    def look(self) -> list[str]:
        """Sentences on pods that wait for what may never come, those that were not told before; ``troubles`` holds all."""
        if not self._usable:
            return []
        try:
            self._api = self._api or connect()
            pods, _ = self._api.list(self._path, self._selector)
        except MistereError:  # no kubeconfig, or not the right to list pods
            self._usable = False
            return []
        found = [sentence for pod in pods for sentence in _held_up(pod)]
        new = [sentence for sentence in found if sentence not in self.troubles]
        self.troubles += new
        return new


def _held_up(pod: dict[str, Any]) -> Iterator[str]:
    status = pod.get("status", {})
    if status.get("phase") not in {"Pending", "Failed"}:
        return
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    waiting = [one.get("state", {}).get("waiting") or {} for one in containers]
    unscheduled = [one for one in status.get("conditions") or [] if one.get("type") == "PodScheduled"]
    for one in [*unscheduled, *waiting]:
        reason = one.get("reason", "")
        if reason in _HELD_UP:
            said = redact_url(" ".join(one.get("message", "").split())).rstrip(".")[:_LONGEST]
            told = f" ({said})" if said else ""
            yield f"pod {pod['metadata']['name']} waits: {reason}{told}: {_HELD_UP[reason]}."
            return
