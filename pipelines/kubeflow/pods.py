"""Pods of a run that cannot start: a missing image, node or secret. Kubeflow Pipelines reports such a step as running.

The pods are read through the kubeconfig; without access to the cluster, a run is followed without this information.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi, connect

RUN_LABEL: Final = "pipeline/runid"
_REMEDIES: Final = {
    "ImagePullBackOff": "check that the registry has the image and that the pull secret is valid",
    "ErrImagePull": "check that the registry has the image and that the pull secret is valid",
    "InvalidImageName": "correct pipelines/images.lock.yaml",
    "CreateContainerConfigError": "create the secret that it names",
    "Unschedulable": "request less in the cluster section, or add nodes that have it",
}
_LONGEST = 240


class RunPods:
    """The pods of one run.

    Args:
        namespace: of the run.
        run_id: of the run, in Kubeflow Pipelines.

    Attributes:
        problems: a sentence for each problem that was ever seen.
    """

    def __init__(self, namespace: str, run_id: str) -> None:
        self._path, self._selector = f"/api/v1/namespaces/{namespace}/pods", f"{RUN_LABEL}={run_id}"
        self._api: KubernetesApi | None = None
        self._usable = True
        self.problems: list[str] = []

    def new_problems(self) -> list[str]:
        """Sentences on pods that may wait forever, without those of earlier calls."""
        if not self._usable:
            return []
        try:
            self._api = self._api or connect()
            pods, _ = self._api.list(self._path, self._selector)
        except MistereError:  # no kubeconfig, or no permission to list pods
            self._usable = False
            return []
        current = [sentence for pod in pods for sentence in _problem(pod)]
        new = [sentence for sentence in current if sentence not in self.problems]
        self.problems += new
        return new


def _problem(pod: dict[str, Any]) -> Iterator[str]:
    status = pod.get("status", {})
    if status.get("phase") not in {"Pending", "Failed"}:
        return
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    waiting = [one.get("state", {}).get("waiting") or {} for one in containers]
    unscheduled = [one for one in status.get("conditions") or [] if one.get("type") == "PodScheduled"]
    for one in [*unscheduled, *waiting]:
        reason = one.get("reason", "")
        if reason in _REMEDIES:
            detail = redact_url(" ".join(one.get("message", "").split())).rstrip(".")[:_LONGEST]
            shown = f" ({detail})" if detail else ""
            yield f"pod {pod['metadata']['name']} waits: {reason}{shown}: {_REMEDIES[reason]}."
            return
