"""The manifest of a bundle's KServe ``InferenceService``: a custom predictor in Standard or Knative mode.

Everything that changes with the bundle is in the predictor's section. KServe copies the metadata of the InferenceService to the
pods of every revision, so a change there would restart the pods that serve.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

from mistere.artifacts.signing import VERIFYING_KEY_VARIABLE
from mistere.common.environment import AUTHORITY_VARIABLES
from mistere.common.errors import UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.config.pod_environment import EnvironmentReference
from mistere.config.predictor import BUNDLE_STORE, PredictorConfig
from mistere.config.predictor_options import rendered
from mistere.kubernetes.current_pod import authority_folder
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES
from mistere.serving import protocol

SERVICE_ACCOUNT: Final = "mistere-predictor"
"""The service account, whose identity can read the store if no secret is configured."""
POD_LABELS: Final = {"app.kubernetes.io/name": "mistere-predictor", "app.kubernetes.io/part-of": "mistere"}
"""Labels of the service and of its pods."""
BUNDLE_LABEL: Final = "mistere/bundle"
_BUNDLE_ANNOTATION: Final = "mistere/bundle-digest"
REVISION_LABEL: Final = "mistere/revision"
"""A label on every pod with a digest of the pod's specification, which selects the pods of one revision."""

_CACHE: Final = "/cache"
_PROBE_SECONDS: Final = 5
_TERMINATION_MARGIN: Final = 13
"""Beyond the drain and grace time of the server, for what is written last (8 s), the last traces (2 s), and the end of the process, seconds."""
_USER: Final = 10001
CANDIDATE: Final = "-candidate"
_SHADOW: Final = "-shadow"
SHADOW_LABEL: Final = "mistere/shadow"
"""A label of the shadow, its Service and its pods, whose metrics are not those of the endpoint."""
_SCALING_FIELDS: Final = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "canaryTrafficPercent")


def inference_service(
    bundle_location: str, digest: str, config: DeploymentConfig, image: str, canary_percent: int | None = None
) -> dict[str, Any]:
    """Render the manifest that serves a bundle.

    Args:
        bundle_location: location of the ModelBundle for the pod. The path ends with the digest, so another model always has
            another path: KServe does not reload a model under the same path.
        digest: digest of the bundle.
        config: the ``deployment`` section; ``local`` is rendered as Standard mode, ``auto`` as the smallest amount.
        image: the predictor's image.
        canary_percent: percentage of the traffic for this revision; the previous one keeps the rest. None for all of it.

    Raises:
        UsageError: the location does not end with the digest.
    """
    if not digest or bundle_location.rstrip("/").rpartition("/")[2] != digest:
        raise UsageError(
            f"{bundle_location} does not end with the bundle's digest {digest[:12]}: name "
            "<store>/artifacts/ModelBundle/<digest>."
        )
    config = config.with_amounts()
    knative = config.mode == "knative"
    labels = dict(POD_LABELS)
    mounts, volumes = _authorities(config)
    predictor: dict[str, Any] = {
        "minReplicas": config.min_replicas,
        "maxReplicas": config.max_replicas,
        # In Standard mode KServe writes it into its HTTPRoute (timeouts.request, 60 s without it: httproute_reconciler.go), where 0s means
        # never (Gateway API); in Knative mode it is the revision's timeoutSeconds, which ends WebSockets, too (knative/serving issue 16638).
        "timeout": config.request_seconds,
        "annotations": {_BUNDLE_ANNOTATION: digest},
        "labels": {**labels, BUNDLE_LABEL: digest[:12]},
        "serviceAccountName": SERVICE_ACCOUNT,
        "containers": [_container(bundle_location, config, image, mounts)],
        "volumes": [
            {"name": "cache", **_cache(config)},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            *volumes,
        ],
    }
    if config.scale_metric:
        predictor["scaleMetric"] = config.scale_metric
    if config.scale_target:
        predictor["scaleTarget"] = config.scale_target
    if config.image_pull_secret:
        predictor["imagePullSecrets"] = [{"name": config.image_pull_secret}]
    if knative:
        predictor["annotations"]["serving.knative.dev/progress-deadline"] = f"{math.ceil(config.ready_timeout)}s"
    else:
        predictor |= _standard_pod(config)
    predictor["labels"][REVISION_LABEL] = _revision(predictor)
    if canary_percent is not None:
        predictor["canaryTrafficPercent"] = canary_percent
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": config.service,
            "namespace": config.namespace,
            "labels": labels,
            "annotations": {"serving.kserve.io/deploymentMode": "Knative" if knative else "Standard"},
        },
        "spec": {"predictor": predictor},
    }


def candidate_of(service: dict[str, Any], *, scaled: bool = False, replicas: int = 0) -> dict[str, Any]:
    """Render the candidate: one pod of the same specification as a separate, cluster-local service, for testing without traffic.

    Args:
        service: the manifest of the service.
        scaled: with as many pods as the service may have instead of one, for a share of its traffic.
        replicas: how many pods it has from the beginning, if it is scaled and may have so many.
    """
    candidate = _beside(service, candidate_name(service["metadata"]["name"]))
    if scaled:
        predictor = service["spec"]["predictor"]
        own = candidate["spec"]["predictor"]
        own |= {key: predictor[key] for key in _SCALING_FIELDS if key in predictor}
        own["minReplicas"] = max(own["minReplicas"], min(replicas, own["maxReplicas"]))
    return candidate


def _beside(service: dict[str, Any], name: str) -> dict[str, Any]:
    """One pod of a manifest as a separate, cluster-local service."""
    metadata, predictor = service["metadata"], service["spec"]["predictor"]
    return {
        **service,
        "metadata": {
            **metadata,
            "name": name,
            "labels": {**metadata["labels"], "networking.kserve.io/visibility": "cluster-local"},
        },
        "spec": {
            "predictor": {
                **{key: value for key, value in predictor.items() if key not in _SCALING_FIELDS},
                "minReplicas": 1,
                "maxReplicas": 1,
            }
        },
    }


def candidate_name(service: str) -> str:
    """The name of the candidate of a service."""
    return f"{service}{CANDIDATE}"


def shadow_service(bundle_location: str, digest: str, config: DeploymentConfig, image: str) -> dict[str, Any]:
    """Render the shadow: one pod that answers copies of requests, as a separate, cluster-local service.

    The arguments are those of :func:`inference_service`.

    Raises:
        UsageError: the location does not end with the digest.
    """
    changes = {"predictor": config.predictor.for_shadow(), "shadow": False, "traffic": False}
    service = inference_service(bundle_location, digest, config.model_copy(update=changes), image)
    predictor = service["spec"]["predictor"]
    predictor["labels"][SHADOW_LABEL] = "true"
    predictor["labels"][REVISION_LABEL] = _revision(predictor)
    service["metadata"]["labels"][SHADOW_LABEL] = "true"
    return _beside(service, shadow_name(config.service))


def shadow_name(service: str) -> str:
    """The name of the shadow of a service."""
    return f"{service}{_SHADOW}"


def shadow_url(config: DeploymentConfig) -> str:
    """The address of the shadow inside the cluster."""
    return f"http://{shadow_name(config.service)}-predictor.{config.namespace}.svc.cluster.local"


def revision_of(service: dict[str, Any]) -> str:
    """The revision of a manifest or live InferenceService; empty if this project did not write it."""
    predictor = service.get("spec", {}).get("predictor", {})
    return str(predictor.get("labels", {}).get(REVISION_LABEL, ""))


def bundle_of(service: dict[str, Any]) -> str:
    """The digest of the bundle that a manifest or live InferenceService names; empty if this project did not write it."""
    predictor = service.get("spec", {}).get("predictor", {})
    return str((predictor.get("annotations") or {}).get(_BUNDLE_ANNOTATION, ""))


def _revision(predictor: dict[str, Any]) -> str:
    pod = {key: value for key, value in predictor.items() if key not in _SCALING_FIELDS}
    return hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()[:12]


def _standard_pod(config: DeploymentConfig) -> dict[str, Any]:
    """The fields that only Standard mode supports."""
    options = config.predictor
    pod: dict[str, Any] = {
        "deploymentStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": math.ceil(options.drain_seconds) + options.grace_seconds + _TERMINATION_MARGIN,
        "securityContext": {**_identity(), "fsGroup": _USER},
    }
    if config.node_selector:
        pod["nodeSelector"] = dict(config.node_selector)
    if config.tolerations:
        pod["tolerations"] = [
            {key: value for key, value in toleration.model_dump().items() if value} for toleration in config.tolerations
        ]
    return pod


def _identity() -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container(
    bundle_location: str, config: DeploymentConfig, image: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    knative = config.mode == "knative"
    start = max(1, math.ceil(config.ready_timeout / _PROBE_SECONDS))
    gpus = {config.gpu_type: str(config.gpus)} if config.gpus else {}
    ports = [{"name": "http1", "containerPort": protocol.HTTP_PORT, "protocol": "TCP"}]
    probes = {
        "readinessProbe": {**_probe(protocol.READY_PATH), "failureThreshold": 2},
        "livenessProbe": {**_probe(protocol.LIVE_PATH), "failureThreshold": 6},
    }
    if knative:  # Knative allows one port, and older versions no startup probe: the liveness probe allows for the start
        probes["livenessProbe"]["failureThreshold"] = max(6, start)
    else:
        ports.append({"name": "grpc", "containerPort": protocol.GRPC_PORT, "protocol": "TCP"})
        probes["startupProbe"] = {**_probe(protocol.READY_PATH), "failureThreshold": start}
    return {
        "name": "kserve-container",
        "image": image,
        "command": ["python", "-m", "mistere.predictor"],
        "args": [
            bundle_location,
            "--http-port",
            str(protocol.HTTP_PORT),
            "--grpc-port",
            str(protocol.GRPC_PORT),
            "--model-name",
            config.service,
            *rendered(_predictor_options(config)),
        ],
        "env": _environment(config),
        "ports": ports,
        "resources": {
            "requests": {"cpu": config.cpu, "memory": config.memory, **gpus},
            "limits": {"cpu": config.cpu_limit, "memory": config.memory_limit, **gpus},
        },
        **probes,
        "securityContext": {
            **(_identity() if knative else {}),
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": _CACHE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  (a mount point in the predictor's own pod)
            *mounts,
        ],
    }


def _cache(config: DeploymentConfig) -> dict[str, Any]:
    if config.cache_claim:
        return {"persistentVolumeClaim": {"claimName": config.cache_claim}}
    return {"emptyDir": {"sizeLimit": config.cache}}


def _predictor_options(config: DeploymentConfig) -> PredictorConfig:
    """The predictor's options; ``deployment.traffic`` and ``deployment.shadow`` are short for some of them."""
    options = config.predictor
    changes: dict[str, Any] = {}
    if config.traffic and not options.traffic_store:
        changes["traffic_store"] = BUNDLE_STORE
    if config.shadow and not options.shadow:
        changes["shadow"] = shadow_url(config)
    return options.model_copy(update=changes)


def _environment(config: DeploymentConfig) -> list[dict[str, Any]]:
    """The environment, with references to the secret's keys, never values; keys that the secret lacks are omitted."""
    values: dict[str, str | EnvironmentReference] = {"HOME": "/tmp", "MISTERE_CACHE": _CACHE, **config.env}  # noqa: S108  (a mount point in the predictor's own pod)
    if (
        config.bundle_key
    ):  # the predictor verifies the bundle again, so that a changed InferenceService serves no other one
        values[VERIFYING_KEY_VARIABLE] = config.bundle_key
    environment = [_variable(name, value) for name, value in values.items()]
    if config.storage_secret:
        environment += [
            {
                "name": variable,
                "valueFrom": {"secretKeyRef": {"name": config.storage_secret, "key": key, "optional": True}},
            }
            for key, variable in STORAGE_VARIABLES.items()
            if not {key, variable} & config.env.keys()
        ]
    return environment


def _variable(name: str, value: str | EnvironmentReference) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": name, "value": value}
    if name in AUTHORITY_VARIABLES:
        return {"name": name, "value": f"{authority_folder(value.secret, value.config_map)}/{value.key}"}
    kind, source = ("secretKeyRef", value.secret) if value.secret else ("configMapKeyRef", value.config_map)
    return {"name": name, "valueFrom": {kind: {"name": source, "key": value.key, "optional": False}}}


def _authorities(config: DeploymentConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The mounts of certificate authorities and their volumes; an object that several variables name is mounted once."""
    sources = {
        authority_folder(value.secret, value.config_map): value
        for name, value in config.env.items()
        if name in AUTHORITY_VARIABLES and not isinstance(value, str)
    }
    mounts, volumes = [], []
    for number, (folder, source) in enumerate(sorted(sources.items()), start=1):
        name = f"authorities-{number}"
        mounts.append({"name": name, "mountPath": folder, "readOnly": True})
        content = (
            {"secret": {"secretName": source.secret}} if source.secret else {"configMap": {"name": source.config_map}}
        )
        volumes.append({"name": name, **content})
    return mounts, volumes


def _probe(path: str) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": protocol.HTTP_PORT},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": 3,
    }
