"""The KServe ``InferenceService`` of one bundle: a custom predictor in Standard mode."""

from __future__ import annotations

import math
from typing import Any, Final

from components.core.config.deployment import DeploymentConfig
from components.core.errors import UsageError
from components.core.serving import protocol

SERVICE_ACCOUNT: Final = "mistere-predictor"
"""Where the rights to read the store come from; no secret is in the manifest."""

_CACHE: Final = "/cache"
_PROBE_SECONDS: Final = 5
_TERMINATION_SECONDS: Final = 45  # the server's drain and grace together, and a margin
_USER: Final = 10001


def inference_service(bundle_location: str, digest: str, config: DeploymentConfig, image: str) -> dict[str, Any]:
    """The manifest that serves a bundle.

    Args:
        bundle_location: of the ModelBundle, as the pod reaches it; its path names the digest, so that another model is
            always another path (a new model under an old path would not be loaded).
        digest: the bundle's.
        config: name, namespace, how long a pod may take to become ready.
        image: the predictor's.

    Raises:
        UsageError: the location does not end with the digest.
    """
    if not digest or bundle_location.rstrip("/").rpartition("/")[2] != digest:
        raise UsageError(f"{bundle_location} does not end with the bundle's digest {digest[:12]}.")
    labels = {"app.kubernetes.io/name": "mistere-predictor", "app.kubernetes.io/part-of": "mistere"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": config.service,
            "namespace": config.namespace,
            "labels": labels,
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "mistere/bundle-digest": digest,
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 2,
                "timeout": 60,
                "labels": {**labels, "mistere/bundle": digest[:12]},
                "serviceAccountName": SERVICE_ACCOUNT,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": _TERMINATION_SECONDS,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _USER,
                    "runAsGroup": _USER,
                    "fsGroup": _USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [_container(bundle_location, config, image)],
                "volumes": [
                    {"name": "cache", "emptyDir": {"sizeLimit": "8Gi"}},
                    {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
                ],
            }
        },
    }


def _container(bundle_location: str, config: DeploymentConfig, image: str) -> dict[str, Any]:
    return {
        "name": "kserve-container",
        "image": image,
        "command": ["python", "-m", "components.predictor"],
        "args": [
            bundle_location,
            "--http-port",
            str(protocol.HTTP_PORT),
            "--grpc-port",
            str(protocol.GRPC_PORT),
            "--model-name",
            config.service,
        ],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "MISTERE_CACHE", "value": _CACHE},
        ],
        "ports": [
            {"name": "http1", "containerPort": protocol.HTTP_PORT, "protocol": "TCP"},
            {"name": "grpc", "containerPort": protocol.GRPC_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi"},
            "limits": {"cpu": "2", "memory": "4Gi"},
        },
        "startupProbe": {
            **_probe(protocol.READY_PATH),
            "failureThreshold": max(1, math.ceil(config.ready_timeout / _PROBE_SECONDS)),
        },
        "readinessProbe": {**_probe(protocol.READY_PATH), "failureThreshold": 2},
        "livenessProbe": {**_probe(protocol.LIVE_PATH), "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": _CACHE},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _probe(path: str) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": protocol.HTTP_PORT},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": 3,
    }
