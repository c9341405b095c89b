"""The same tests against the stand-ins and against a real cluster, so that a stand-in that answers otherwise fails.

With ``MISTERE_TEST_KFP`` (the address of Kubeflow Pipelines) and a kubeconfig they run on that cluster, in the namespace
``MISTERE_TEST_NAMESPACE`` (default ``mistere``; a single-user Kubeflow Pipelines has its own for runs), with pods of the image
``MISTERE_TEST_IMAGE`` and, if it is set, the service account ``MISTERE_TEST_ACCOUNT``. They delete the schedules and
services that they make; runs end, and pipelines and experiments stay.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mistere.kubernetes.api import KubernetesApi, connect
from pipelines.kubeflow.connection.client import Pipelines
from tests.cluster.conftest import Cluster, free_ports, make_cluster
from tests.contract.packages import compiled
from tests.stand_ins.kfp_api import KfpApi, served

__all__ = ["free_ports", "make_cluster"]

ADDRESS = os.environ.get("MISTERE_TEST_KFP", "")
NAMESPACE = os.environ.get("MISTERE_TEST_NAMESPACE", "mistere")
IMAGE = os.environ.get("MISTERE_TEST_IMAGE", "docker.io/library/busybox:1.36")
ACCOUNT = os.environ.get("MISTERE_TEST_ACCOUNT") or None


@dataclass(frozen=True)
class PipelinesServer:
    """A server of Kubeflow Pipelines.

    Attributes:
        pipelines: the client.
        seconds: how long a state may take.
    """

    pipelines: Pipelines
    seconds: float

    def upload(self, package: str, name: str = "") -> tuple[str, str]:
        """Upload a package as a version of the tests' pipeline; return the ids of pipeline and version."""
        pipeline_id = self.pipelines.pipeline("mistere-contract", "Made by the contract tests.")
        version = self.pipelines.upload(pipeline_id, name or f"v-{uuid.uuid4().hex[:8]}", "a test", package)
        return pipeline_id, str(version.pipeline_version_id)

    def start(self, package: str, parameters: dict[str, Any] | None = None) -> str:
        """Start a run of a package; return its id."""
        from kfp_server_api import V2beta1PipelineVersionReference, V2beta1Run, V2beta1RuntimeConfig

        pipeline_id, version_id = self.upload(package)
        body = V2beta1Run(
            display_name=f"contract-{uuid.uuid4().hex[:8]}",
            experiment_id=self.pipelines.experiment("mistere-contract"),
            pipeline_version_reference=V2beta1PipelineVersionReference(
                pipeline_id=pipeline_id, pipeline_version_id=version_id
            ),
            runtime_config=V2beta1RuntimeConfig(parameters=parameters or {}),
            service_account=ACCOUNT,
        )
        return str(self.pipelines.start(body).run_id)

    def wait(self, run_id: str, states: set[str]) -> list[str]:
        """Wait until a run has one of the states; return the states that it had, without repetitions."""
        seen: list[str] = []
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            state = str(self.pipelines.run(run_id).state)
            if not seen or seen[-1] != state:
                seen.append(state)
            if state in states:
                return seen
            time.sleep(0.05 if not ADDRESS else 2.0)
        raise AssertionError(f"run {run_id} had the states {seen} within {self.seconds:g} s, and none of {states}")


@pytest.fixture
def kfp_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PipelinesServer]:
    """Kubeflow Pipelines: the real server if its address is given, else the stand-in."""
    if ADDRESS:
        yield PipelinesServer(Pipelines(ADDRESS, NAMESPACE), 600)
        return
    monkeypatch.delenv("KFP_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    api = KfpApi()
    api.on_start = lambda run: _execute(api, run)
    with served(api):
        yield PipelinesServer(Pipelines(api.url, NAMESPACE), 30)


def _execute(api: KfpApi, run: Any) -> None:
    """Run a contract pipeline: the stand-in serves the API, and has no engine of its own."""
    version = api.versions[run.pipeline_version_reference["pipeline_version_id"]]
    spec = version.pipeline_spec
    name = spec.get("pipeline_spec", spec)["pipelineInfo"]["name"]
    run.state = "RUNNING"
    if name != "sleeps":
        run.state = {"works": "SUCCEEDED", "fails": "FAILED"}[name]


@pytest.fixture
def kubernetes(request: pytest.FixtureRequest) -> Iterator[tuple[KubernetesApi, str]]:
    """A Kubernetes API with KServe, and a namespace: the kubeconfig's if a server is given, else the stand-in."""
    if ADDRESS:
        yield connect(), NAMESPACE
        return
    start_cluster: Callable[..., Cluster] = request.getfixturevalue("make_cluster")
    start_cluster(lambda *_: _Nothing())  # it names itself in KUBECONFIG
    yield connect(), "mistere"


class _Nothing:
    """A container that starts nothing."""

    def stop(self) -> None:
        """Nothing runs."""


@pytest.fixture
def packages(tmp_path: Path) -> Callable[[str], str]:
    """Compiles the pipelines of :mod:`tests.contract.packages` by name."""
    return lambda name: compiled(name, IMAGE, tmp_path / f"{name}.yaml")
