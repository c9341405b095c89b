"""What the deployment relies on, of the stand-in or of a real Kubernetes API with KServe."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from mistere.common.errors import MistereError
from mistere.kubernetes.api import KubernetesApi, KubernetesError
from tests.contract.conftest import ADDRESS, IMAGE

Cluster = tuple[KubernetesApi, str]


@pytest.fixture
def service(kubernetes: Cluster) -> Iterator[tuple[str, dict[str, Any]]]:
    """The path and the manifest of a service whose pods never become ready; deleted afterwards."""
    api, namespace = kubernetes
    name = f"contract-{uuid.uuid4().hex[:6]}"
    container = {
        "name": "kserve-container",
        "image": IMAGE,
        "command": ["sleep", "600"],
        "args": ["--model-name", "x"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8080}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
        },
        "spec": {"predictor": {"minReplicas": 1, "containers": [container], "securityContext": security}},
    }
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{name}"
    yield path, manifest
    api.delete(path)


def test_a_dry_run_stores_nothing(kubernetes: Cluster, service: tuple[str, dict[str, Any]]) -> None:
    api, path = kubernetes[0], service[0]
    answer = api.apply(path, service[1], dry_run=True)
    assert answer["metadata"]["name"] == service[1]["metadata"]["name"] and api.get(path) is None


def test_another_manager_of_a_field_is_a_conflict(kubernetes: Cluster, service: tuple[str, dict[str, Any]]) -> None:
    api, (path, manifest) = kubernetes[0], service
    api.apply(path, manifest)
    query = {"fieldManager": "somebody", "fieldValidation": "Strict", "force": "true"}
    other = {**manifest, "spec": {"predictor": {**manifest["spec"]["predictor"], "minReplicas": 2}}}
    api._call("PATCH", path, query, other)
    with pytest.raises(KubernetesError, match="somebody") as conflict:
        api.apply(path, manifest)
    assert conflict.value.code == 409
    assert api.apply(path, manifest, force=True)["spec"]["predictor"]["minReplicas"] == 1


def test_a_change_of_the_spec_raises_the_generation_and_a_repeated_one_does_not(
    kubernetes: Cluster, service: tuple[str, dict[str, Any]]
) -> None:
    api, (path, manifest) = kubernetes[0], service
    first = api.apply(path, manifest)["metadata"]["generation"]
    assert api.apply(path, manifest)["metadata"]["generation"] == first
    more = {**manifest, "spec": {"predictor": {**manifest["spec"]["predictor"], "maxReplicas": 3}}}
    assert api.apply(path, more)["metadata"]["generation"] > first


def test_the_pods_carry_the_services_name_and_the_service_is_not_ready_without_them(
    kubernetes: Cluster, service: tuple[str, dict[str, Any]]
) -> None:
    (api, namespace), (path, manifest) = kubernetes, service
    name = manifest["metadata"]["name"]
    api.apply(path, manifest)
    pods: list[dict[str, Any]] = []
    deadline = time.monotonic() + (300 if ADDRESS else 30)
    conditions: dict[str, str] = {}
    while time.monotonic() < deadline and not (pods and conditions.get("Ready") == "False"):  # first it is Unknown
        pods, _ = api.list(f"/api/v1/namespaces/{namespace}/pods", f"serving.kserve.io/inferenceservice={name}")
        status = (api.get(path) or {}).get("status", {})
        conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
        time.sleep(0.1)
    assert pods and pods[0]["spec"]["containers"][0]["name"] == "kserve-container"
    assert pods[0]["spec"]["containers"][0]["image"] == IMAGE
    assert conditions["Ready"] == "False"


def test_an_unknown_field_is_refused(kubernetes: Cluster, service: tuple[str, dict[str, Any]]) -> None:
    if not ADDRESS:
        pytest.skip("the stand-in has no schemas; tests/manifests/test_schemas.py checks them")
    api, (path, manifest) = kubernetes[0], service
    wrong = {**manifest, "spec": {"predictor": {**manifest["spec"]["predictor"], "storageURI": "s3://x"}}}
    with pytest.raises(MistereError, match="storageURI"):
        api.apply(path, wrong, dry_run=True)


def test_deleting_what_is_missing_is_no_error(kubernetes: Cluster, service: tuple[str, dict[str, Any]]) -> None:
    kubernetes[0].delete(service[0])
