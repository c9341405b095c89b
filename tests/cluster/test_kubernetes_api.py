"""Errors of the Kubernetes API become one sentence with a fix, and transient errors are retried."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mistere.kubernetes.api as module
from mistere.common.errors import MistereError, UsageError
from mistere.kubernetes.api import connect
from mistere.kubernetes.managed_fields import applied_by
from tests.cluster.conftest import Cluster
from tests.stand_ins.kubernetes_server import Trouble

COLLECTION = "/apis/serving.kserve.io/v1beta1/namespaces/mistere/inferenceservices"
PODS = "/api/v1/namespaces/mistere/pods"


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", (0.01, 0.01))


def service(**predictor: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "other", "namespace": "mistere", "labels": {"team": "speech"}},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "x"}], **predictor}},
    }


def put(cluster: Cluster, count: int) -> None:
    for i in range(count):
        metadata = {
            "name": f"pod-{i:03d}",
            "namespace": "mistere",
            "labels": {"serving.kserve.io/inferenceservice": "x"},
        }
        cluster.api.write("pods", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata})


@pytest.fixture
def still(cluster: Cluster) -> Cluster:
    """A cluster without a running controller."""
    cluster.controller.stop()
    return cluster


@pytest.mark.parametrize(
    ("options", "token", "path", "expected"),
    [
        ({}, "stale", COLLECTION, "does not accept the credentials .401.*log in again"),
        ({"kinds": ("pods",)}, "admin", COLLECTION, "install KServe there"),
        ({"namespaces": ("other",)}, "admin", COLLECTION, 'namespaces "mistere" not found: create it'),
    ],
)
def test_cluster_errors_are_one_sentence(
    make_cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    token: str,
    path: str,
    expected: str,
) -> None:
    cluster = make_cluster(**options)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(token)))
    with pytest.raises(MistereError, match=expected) as error:
        connect().apply(f"{path}/other", service())
    assert token == "admin" or token not in str(error.value)


@pytest.mark.parametrize(
    ("trouble", "times"),
    [(Trouble("GET", 503), 2), (Trouble("GET", 429, headers={"Retry-After": "0"}), 2), (Trouble("GET", 0), 2)],
    ids=["503", "429", "broken off"],
)
def test_transient_errors_are_retried(still: Cluster, trouble: Trouble, times: int) -> None:
    trouble.times = times
    still.server.troubles.append(trouble)
    assert connect().get(f"{COLLECTION}/none") is None
    trouble.times = 99
    with pytest.raises(MistereError, match=r"failed .GET answered|cannot be reached"):
        connect().get(f"{COLLECTION}/none")


def test_fields_of_other_managers_are_kept(still: Cluster) -> None:
    api = connect()
    api.apply(f"{COLLECTION}/other", service(minReplicas=1))
    still.api.edit("inferenceservices", "other", {"spec": {"predictor": {"minReplicas": 3}}})
    with pytest.raises(
        MistereError,
        match=r"other field managers own.*kubectl-edit. using serving.kserve.io/v1beta1: .spec.predictor.minReplicas.*release the fields",
    ):
        api.apply(f"{COLLECTION}/other", service(minReplicas=1))
    live = still.api.find("inferenceservices", "other")
    assert live is not None and live["spec"]["predictor"]["minReplicas"] == 3
    api.apply(f"{COLLECTION}/other", service(minReplicas=1), force=True)
    live = still.api.find("inferenceservices", "other")
    assert live is not None and live["spec"]["predictor"]["minReplicas"] == 1


def test_applied_fields_are_read_from_managed_fields(still: Cluster) -> None:
    api = connect()
    manifest = service(minReplicas=1, labels={"a/b": "c"}, securityContext={})
    api.apply(f"{COLLECTION}/other", manifest)
    still.api.edit("inferenceservices", "other", {"spec": {"predictor": {"maxReplicas": 7}}})
    live = api.get(f"{COLLECTION}/other")
    assert live is not None and live["spec"]["predictor"]["maxReplicas"] == 7
    assert applied_by("mistere", live) == manifest
    alone = applied_by("nobody", live)
    assert "spec" not in alone and alone["metadata"] == {"name": "other", "namespace": "mistere"}


def test_list_items_are_found_by_key_value_and_index() -> None:
    fields = {
        "f:spec": {
            "f:ports": {'k:{"port":80}': {".": {}, "f:name": {}}},
            "f:finalizers": {'v:"one"': {}},
            "f:order": {"i:1": {}},
        }
    }
    live = {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {
            "name": "x",
            "namespace": "y",
            "managedFields": [{"manager": "mistere", "operation": "Apply", "fieldsV1": fields}],
        },
        "spec": {
            "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}],
            "finalizers": ["one", "two"],
            "order": [1, 2],
        },
    }
    assert applied_by("mistere", live)["spec"] == {"ports": [{"name": "a"}], "finalizers": ["one"], "order": [2]}


def test_a_dry_run_and_a_repeated_apply_change_nothing(still: Cluster) -> None:
    api = connect()
    api.apply(f"{COLLECTION}/other", service(), dry_run=True)
    assert api.get(f"{COLLECTION}/other") is None
    first = api.apply(f"{COLLECTION}/other", service())
    assert api.apply(f"{COLLECTION}/other", service())["metadata"] == first["metadata"]
    still.api.write_status("inferenceservices", {**first, "status": {"url": "http://x"}, "spec": {}})
    live = api.get(f"{COLLECTION}/other")
    assert live is not None and live["spec"] == first["spec"] and live["metadata"]["generation"] == 1
    assert live["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]


def test_deleting_a_missing_object_succeeds(still: Cluster) -> None:
    connect().delete(f"{COLLECTION}/none")


def test_long_lists_are_paged_and_restart_when_a_page_expires(still: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 10)
    put(still, 25)
    items, _ = connect().list(PODS, "serving.kserve.io/inferenceservice=x")
    assert len(items) == 25 and len(still.server.calls) == 3
    still.server.calls.clear()
    answer, times = still.api.answer, iter(range(99))

    def compact_after_the_first_page(*arguments: Any) -> Any:
        answered = answer(*arguments)
        if next(times) == 0:
            put(still, 26)
            still.api.forget()
        return answered

    monkeypatch.setattr(still.api, "answer", compact_after_the_first_page)
    items, _ = connect().list(PODS)
    assert len({pod["metadata"]["name"] for pod in items}) == len(items) == 26
    assert len(still.server.calls) == 5, "the second page is gone, so three are read again"


def test_a_watch_ends_on_a_change_a_timeout_or_an_expired_version(still: Cluster) -> None:
    api = connect()
    put(still, 1)
    _, version = api.list(PODS)
    began = time.monotonic()
    api.wait_for_change(PODS, version, 0.3)
    assert time.monotonic() - began > 0.25, "nothing changed"
    put(still, 2)
    began = time.monotonic()
    api.wait_for_change(PODS, version, 600.0)
    still.api.forget()
    api.wait_for_change(PODS, version, 600.0)
    still.server.troubles.append(Trouble("GET", 500, path="watch"))
    api.wait_for_change(PODS, version, 0.1)
    assert time.monotonic() - began < 300, "no watch ran until its timeout"


def test_responses_not_from_the_api_are_reported(still: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(still.api, "answer", lambda *_: (200, "<html>Log in</html>"))
    with pytest.raises(MistereError, match="does not answer like a Kubernetes API"):
        connect().get(f"{COLLECTION}/none")


def test_an_untrusted_certificate_is_reported_without_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: Cluster
) -> None:
    config = still.kubeconfig().read_text(encoding="utf-8").replace("http://", "https://")
    (tmp_path / "tls").write_text(config, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "tls"))
    with pytest.raises(MistereError, match=r"check its certificate|does not answer"):
        connect().get(f"{COLLECTION}/none")


def test_long_rejections_are_truncated(still: Cluster) -> None:
    still.api.admit = lambda _: "no\n" * 1000
    with pytest.raises(MistereError) as error:
        connect().apply(f"{COLLECTION}/other", service())
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


def test_without_a_cluster_the_error_says_how_to_configure_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="set KUBECONFIG to a kubeconfig"):
        connect()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(UsageError, match="mount the service account's token in the pod"):
        connect()
