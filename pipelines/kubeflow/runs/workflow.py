"""What only Argo's Workflow shows of a run: that it was stopped, and pods that the cluster refused to create."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from mistere.common.urls import redact_url
from mistere.kubernetes.api import KubernetesApi

WORKFLOWS: Final = "/apis/argoproj.io/v1alpha1/namespaces/{}/workflows"
_REFUSED: Final = "is forbidden: "
"""In the message that the API server gives when it refuses to create a pod: a quota, a policy."""
_USAGE: Final = ", requested: "
"""Starts the amounts in the message of a quota."""
_LONGEST: Final = 400


def read_workflow(api: KubernetesApi, namespace: str, selector: str) -> dict[str, Any]:
    """The run's Workflow; empty if it was deleted.

    Args:
        api: the cluster.
        namespace: of the run.
        selector: of the run's objects.

    Raises:
        MistereError: it may not be read.
    """
    workflows, _ = api.list(WORKFLOWS.format(namespace), selector)
    return workflows[0] if workflows else {}


def is_stopped(workflow: dict[str, Any]) -> bool:
    """Whether somebody stopped the run: Kubeflow Pipelines sets this deadline to end a run, which then counts as failed."""
    return workflow.get("spec", {}).get("activeDeadlineSeconds") == 0


def refused_pods(workflow: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Why the cluster refuses to create pods of the run. Such a pod has no object.

    Returns:
        For each refusal an identity, which stays the same while a quota's usage changes, and a sentence.
    """
    nodes = (workflow.get("status", {}).get("nodes") or {}).values()
    for node in nodes:
        message = " ".join(str(node.get("message") or "").split())
        if node.get("phase") in {"Pending", "Error", "Failed"} and _REFUSED in message:
            reason = redact_url(message.partition(_REFUSED)[2]).rstrip(".")[:_LONGEST]
            step = str(node.get("displayName") or node.get("name") or "")
            remedy = (
                "raise the namespace's quota, or request less in the cluster section"
                if "quota" in reason
                else "change that policy, or the cluster section"
            )
            yield (
                f"{step}: {reason.partition(_USAGE)[0]}",
                f"the cluster refuses the pod of {step}: {reason}: {remedy}.",
            )
