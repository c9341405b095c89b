"""The pod that this process runs in, as the Kubernetes API knows it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import UsageError

if TYPE_CHECKING:
    from mistere.kubernetes.api import KubernetesApi

TRAINER_API: Final = "trainer.kubeflow.org/v1alpha1"
"""Of the TrainJobs that belong to the same workflow as a step's pod."""
_POD_NAME = "KFP_POD_NAME"
"""Environment variable: Kubeflow Pipelines tells a step's pod its name; elsewhere it is the host's."""


def is_inside() -> bool:
    """Whether this process runs in a cluster's pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def own_pod(api: KubernetesApi) -> dict[str, Any]:
    """The pod.

    Raises:
        UsageError: it does not know its namespace, or has no such name there.
        KubernetesError: it may not read pods.
    """
    from kubernetes.config import incluster_config

    try:
        file = Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace")
        namespace = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError("this pod does not know its namespace: let it mount its service account's token.") from error
    name = os.environ.get(_POD_NAME) or socket.gethostname()
    pod = api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    if pod is None:
        raise UsageError(
            f"namespace {namespace} has no pod {name}, as which this process runs: set {_POD_NAME} to the pod's name."
        )
    return pod
