"""Read the state of a live InferenceService and of the objects that KServe created for it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from mistere.config.deployment import DeploymentConfig
from mistere.serving.kserve.inference_service import REVISION_LABEL

_DEFAULT_DOMAIN: Final = "example.com"
"""KServe's and Knative's default ingress domain, which no name server resolves."""
_LOCAL_DOMAIN: Final = "svc.cluster.local"


def service_path(config: DeploymentConfig, name: str) -> str:
    """The API path of an InferenceService."""
    return f"/apis/serving.kserve.io/v1beta1/namespaces/{config.namespace}/inferenceservices/{name}"


def workload_path(config: DeploymentConfig, service: str) -> str:
    """The API path of the Deployment that Standard mode creates for a service."""
    return f"/apis/apps/v1/namespaces/{config.namespace}/deployments/{service}-predictor"


def is_rolled_out(deployment: dict[str, Any], revision: str) -> bool:
    """Whether all pods of a Deployment belong to a revision and are available."""
    spec, status = deployment.get("spec", {}), deployment.get("status", {})
    wanted = spec.get("replicas", 1)
    labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
    return (
        labels.get(REVISION_LABEL) == revision
        and status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("availableReplicas", 0) >= wanted
        and status.get("replicas", 0) == status.get("updatedReplicas", 0)
    )


def share_of(live: dict[str, Any], revision: str) -> int:
    """The percentage of the traffic that a Knative revision gets."""
    traffic = live.get("status", {}).get("components", {}).get("predictor", {}).get("traffic") or []
    return sum(int(target.get("percent") or 0) for target in traffic if target.get("revisionName") == revision)


def _condition(live: dict[str, Any]) -> dict[str, Any]:
    conditions = live.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def is_terminating(live: dict[str, Any]) -> bool:
    """Whether it is being deleted."""
    return bool(live["metadata"].get("deletionTimestamp"))


def says_ready(live: dict[str, Any]) -> bool:
    """Whether the InferenceService reports Ready. It does so while only the old revision is ready, too."""
    return bool(_condition(live).get("status") == "True")


def not_ready(live: dict[str, Any]) -> str:
    """Why the InferenceService reports that it is not ready."""
    condition = _condition(live)
    reason = " ".join(f"{condition.get('reason', '')} {condition.get('message', '')}".split())
    return f"the InferenceService is not ready ({reason[:200] or 'without a reason'})"


def address(live: dict[str, Any]) -> str:
    """The URL at which an InferenceService answers; empty if it has none yet.

    KServe sets ``status.url`` from its ingress domain whether it creates an ingress or not. With the default domain nothing
    answers there, so the address inside the cluster is returned instead.
    """
    status = live.get("status", {})
    url = str(status.get("url") or "")
    host = f".{urlsplit(url).hostname or _DEFAULT_DOMAIN}"
    inside = str((status.get("address") or {}).get("url") or "")
    return inside if inside and host.endswith(f".{_DEFAULT_DOMAIN}") else url


def port_forward(address: str) -> str:
    """The command that makes a predictor's address inside the cluster reachable at port 8080 here; empty for other addresses."""
    host = urlsplit(address).hostname or ""
    service, _, rest = host.partition(".")
    namespace, _, domain = rest.partition(".")
    if domain != _LOCAL_DOMAIN or not service.endswith("-predictor"):
        return ""
    return f"kubectl port-forward --namespace {namespace} service/{service} 8080:80"
