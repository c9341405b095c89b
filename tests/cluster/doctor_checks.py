"""Fixtures and functions for the tests of ``mistere doctor``: stand-ins of the servers, a plan, and the results of groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli.doctor.groups import cluster, credentials, images, network, nodes, run_settings, serving, workflows
from pipelines.cli.doctor.plan import Plan, make_plan
from pipelines.cli.doctor.result import CheckGroup, CheckResult, run_group
from tests.stand_ins.doctor_cluster import KubernetesApi, PipelinesApi
from tests.stand_ins.http_server import running

ON_CLUSTER = (credentials, run_settings, workflows, network, serving, nodes, images)


@pytest.fixture(name="nothing_named", autouse=True)
def ignore_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ignore addresses and credentials of the local machine."""
    names = (
        "KFP_ENDPOINT",
        "KFP_TOKEN",
        "MISTERE_STORE",
        "MLFLOW_TRACKING_URI",
        "AWS_ENDPOINT_URL",
        "KUBERNETES_SERVICE_HOST",
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(name="pipelines_api")
def serve_pipelines_api() -> Iterator[PipelinesApi]:
    with running(PipelinesApi()) as server:
        yield server


@pytest.fixture(name="kubernetes_api")
def serve_kubernetes_api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KubernetesApi]:
    with running(KubernetesApi()) as server:
        (tmp_path / "kubeconfig").write_text(server.kubeconfig())
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield server


def plan(profile: str = "sample", *settings: str, host: str = "", store: str = "", tracking: str = "") -> Plan:
    return make_plan(profile, settings, host or None, store or None, tracking or None)


def results_of(*groups: CheckGroup) -> dict[str, CheckResult]:
    results = {name: result for group in groups for name, result in run_group(group)}
    for result in results.values():
        assert result.sentence.endswith(".") and "\n" not in result.sentence, result
        assert "Traceback" not in result.sentence and "hush-hush" not in result.sentence
    return results


def troubles(results: dict[str, CheckResult]) -> dict[str, CheckResult]:
    return {name: result for name, result in results.items() if result.status != "ok"}


def cluster_results(*settings: str, profile: str = "sample") -> dict[str, CheckResult]:
    connection = cluster.Cluster(plan(profile, *settings))
    return results_of(cluster.group(connection), *(module.group(connection) for module in ON_CLUSTER))
