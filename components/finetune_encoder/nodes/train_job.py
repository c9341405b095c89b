"""The TrainJob (Kubeflow Trainer's v2 API) that trains one encoder on several nodes.

The nodes run with the service account and the secret references of the step that starts them. The owner of its pod owns the
TrainJob too, so that deleting a run deletes it. The pods satisfy restricted Pod Security.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mistere.common.environment import FORWARDED_VARIABLES
from mistere.config.encoder import EncoderConfig
from mistere.kubernetes.current_pod import AUTHORITY_FOLDER, TRAINER_API
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES, TRACKING_KEYS

CONTAINER: Final = "node"
"""Name of the training container and of its job in Kubeflow Trainer's runtimes."""
POD_LABEL: Final = "jobset.sigs.k8s.io/jobset-name"
"""Label of a node's pod with the TrainJob's name."""

_MANAGER: Final = "mistere/finetune-encoder"
_LABELS: Final = {"app.kubernetes.io/part-of": "mistere", "app.kubernetes.io/component": "training"}
_QUEUE_LABELS: Final = ("kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class")
TERMINATION_SECONDS: Final = 120


def train_job_name(modality: str, key: str) -> str:
    """Name of the TrainJob for a step's key, so that a restarted step finds its TrainJob."""
    return f"mistere-{modality}-{key[:12].lower()}"


def train_job(
    name: str, config: EncoderConfig, image: str, arguments: Sequence[str], step_pod: dict[str, Any]
) -> dict[str, Any]:
    """The TrainJob's manifest.

    Args:
        name: its name.
        config: the modality's section.
        image: image of the nodes.
        arguments: arguments of :mod:`components.finetune_encoder.nodes.node`.
        step_pod: the pod of the step that starts it.
    """
    nodes = config.nodes
    gpus = {nodes.gpu_type: str(config.gpus_per_node)} if config.gpus_per_node else {}
    own = step_pod["metadata"]
    return {
        "apiVersion": TRAINER_API,
        "kind": "TrainJob",
        "metadata": {
            "name": name,
            "namespace": own["namespace"],
            "labels": {**_LABELS, **_queue_of(step_pod)},
            # Without blockOwnerDeletion, which would require a permission on the owner.
            "ownerReferences": [
                {field: owner[field] for field in ("apiVersion", "kind", "name", "uid")}
                for owner in own.get("ownerReferences") or []
            ],
        },
        "spec": {
            "runtimeRef": {"name": nodes.runtime},
            "activeDeadlineSeconds": nodes.timeout,
            "trainer": {
                "image": image,
                "command": ["python", "-m", "components.finetune_encoder.nodes.node"],
                "args": list(arguments),
                "env": [*_secrets_of(step_pod), *_forwarded(step_pod)],
                "numNodes": config.num_nodes,
                "numProcPerNode": config.processes,
                "resourcesPerNode": {
                    "requests": {"cpu": nodes.cpu, "memory": nodes.memory, **gpus},
                    "limits": {"cpu": nodes.cpu_limit, "memory": nodes.memory, **gpus},
                },
            },
            "runtimePatches": [
                {
                    "manager": _MANAGER,
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [_patch(config, step_pod)]}}},
                }
            ],
        },
    }


def _queue_of(step_pod: dict[str, Any]) -> dict[str, str]:
    """The step's Kueue labels, so that its nodes wait in the same queue."""
    labels = step_pod["metadata"].get("labels") or {}
    return {key: str(labels[key]) for key in _QUEUE_LABELS if key in labels}


def _secrets_of(step_pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The step's references to secrets, each under the variable of the same name."""
    references = {
        variable["name"]: variable["valueFrom"]["secretKeyRef"]
        for container in step_pod["spec"]["containers"]
        for variable in container.get("env") or []
        if "secretKeyRef" in (variable.get("valueFrom") or {})
    }
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {**references[name], "optional": True}}}
        for name in (*STORAGE_VARIABLES.values(), *TRACKING_KEYS)
        if name in references
    ]


def _forwarded(step_pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The step's variables of ``cluster.env``: texts, and references to secrets and ConfigMaps."""
    variables = {
        variable["name"]: dict(variable)
        for container in step_pod["spec"]["containers"]
        for variable in container.get("env") or []
        if variable["name"] in FORWARDED_VARIABLES
    }
    return [variables[name] for name in sorted(variables)]


def _authorities(step_pod: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The step's mounts of certificate authorities, and their volumes."""
    mounts = {
        mount["name"]: {"name": mount["name"], "mountPath": mount["mountPath"], "readOnly": True}
        for container in step_pod["spec"]["containers"]
        for mount in container.get("volumeMounts") or []
        if mount["mountPath"].startswith(f"{AUTHORITY_FOLDER}/")
    }
    volumes = [dict(volume) for volume in step_pod["spec"].get("volumes") or [] if volume["name"] in mounts]
    return list(mounts.values()), volumes


def _patch(config: EncoderConfig, step_pod: dict[str, Any]) -> dict[str, Any]:
    """Patch for the runtime's pods: account, node selection, writable volumes, security context for restricted Pod Security."""
    nodes, own = config.nodes, step_pod["spec"]
    mounts, volumes = _authorities(step_pod)
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": TERMINATION_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": CONTAINER,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  (a mount point in the node's own pod)
                    {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108  (a mount point in the node's own pod)
                    *mounts,
                ],
            }
        ],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": nodes.scratch}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": nodes.shared_memory}},
            *volumes,
        ],
    }
    if own.get("serviceAccountName"):
        pod["serviceAccountName"] = own["serviceAccountName"]
    if own.get("imagePullSecrets"):
        pod["imagePullSecrets"] = own["imagePullSecrets"]
    if nodes.node_selector:
        pod["nodeSelector"] = dict(nodes.node_selector)
    if nodes.tolerations:
        pod["tolerations"] = [
            {key: value for key, value in toleration.model_dump().items() if value} for toleration in nodes.tolerations
        ]
    return {"name": CONTAINER, "template": {"spec": {"template": {"metadata": {"labels": dict(_LABELS)}, "spec": pod}}}}
