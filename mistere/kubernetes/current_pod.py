"""The pod in which this process runs."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import UsageError

if TYPE_CHECKING:
    from mistere.kubernetes.api import KubernetesApi

TRAINER_API: Final = "trainer.kubeflow.org/v1alpha1"
"""API version of TrainJobs, which a step's pod creates in its workflow."""
AUTHORITY_FOLDER: Final = "/var/run/mistere/authorities"
"""Where pods mount files of trusted certificate authorities."""
_POD_NAME = "KFP_POD_NAME"
"""Environment variable that Kubeflow Pipelines sets to the pod's name; elsewhere the host name is the pod's."""


def authority_folder(secret: str, config_map: str) -> str:
    """Where a pod mounts a secret, or else a ConfigMap, with certificate authorities."""
    return f"{AUTHORITY_FOLDER}/{'secret' if secret else 'config-map'}-{secret or config_map}"


def is_inside() -> bool:
    """Whether this process runs in a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def pod_name() -> str:
    """The name of this process's pod; outside a cluster the host's name."""
    return os.environ.get(_POD_NAME) or socket.gethostname()


def current_pod(api: KubernetesApi) -> dict[str, Any]:
    """Read the pod's object.

    Raises:
        UsageError: the namespace or the name is unknown.
        KubernetesError: the pod may not read pods.
    """
    from kubernetes.config import incluster_config

    try:
        file = Path(incluster_config.SERVICE_TOKEN_FILENAME).with_name("namespace")
        namespace = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError("this pod does not know its namespace: mount its service account's token.") from error
    name = pod_name()
    pod = api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    if pod is None:
        raise UsageError(
            f"namespace {namespace} has no pod {name}, which should be the pod of this process: set {_POD_NAME} to the pod's name."
        )
    return pod
