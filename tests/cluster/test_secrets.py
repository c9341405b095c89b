"""A submitted run and a deployment leave no secret behind: in Kubeflow Pipelines, the store, the compiled YAML and the cluster."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.secrets.redaction import conceal
from mistere.config.deployment import DeploymentConfig
from mistere.registry.release.atomic_release import release
from mistere.registry.release.champion import Champion, read_champion
from mistere.serving.kserve.cluster_release import Rolling
from tests.cluster.conftest import Cluster
from tests.cluster.mounted_pod import MountedCluster, api, mounted, no_token, s3_endpoint, s3_store
from tests.local.canaries import environment, leaks, planted

__all__ = ["api", "mounted", "no_token", "s3_endpoint", "s3_store"]

pytestmark = pytest.mark.long


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, value in environment(tmp_path_factory.mktemp("home")).items():
        monkeypatch.setenv(name, value)
    conceal()


def test_a_submitted_run_holds_no_secret(
    mounted: MountedCluster,
    secrets: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tracking = f"https://me:{planted('tracking')}@mlflow.example.org"
    monkeypatch.setattr(
        sys, "argv", ["mistere", "submit", "--tracking", tracking, "--set", f"a.token={planted('set')}"]
    )
    mounted.api.token = planted("kfp")
    assert mounted.submit() == 0
    (run,) = mounted.api.runs.values()
    (version,) = mounted.api.versions.values()
    objects = {key: mounted.store.read(key)[0] for key in mounted.store.keys("runs")}
    objects |= {key: mounted.store.read(key)[0] for key in mounted.store.keys("submissions")}
    assert any(
        b"mistere submit --tracking https://mlflow.example.org --set a.token=***" in data for data in objects.values()
    )
    sent = {"run": repr(vars(run)), "version": repr(vars(version)), "output": "".join(capsys.readouterr())}
    assert "evaluate-model" in sent["version"] and "gate" in sent["run"]
    assert not leaks([tmp_path], {**objects, **sent})


def test_a_deployment_holds_no_secret(cluster: Cluster, secrets: None) -> None:
    config = DeploymentConfig(mode="standard", storage_secret="storage", ready_timeout=30)
    bundle, store = cluster.bundle("a"), LocalStore(cluster.folder / "store")
    champion = Champion(
        bundle_digest=bundle.manifest.digest,
        evaluation_digest="e" * 64,
        model_name="mistere",
        model_version="1",
        run_id="run",
        moved_at=time.time(),
    )
    rolling = Rolling(cluster.to(bundle, config), bundle)
    release(
        store,
        lambda _: None,
        read_champion(store),
        champion,
        cluster.deployment(bundle, config),
        "deploy",
        "why",
        "who",
        rolling,
    )
    assert cluster.served() == bundle.manifest.digest
    service = json.dumps(cluster.api.find("inferenceservices", "mistere"))
    assert "secretKeyRef" in service
    assert not leaks([cluster.folder], {"service": service, "messages": " ".join(cluster.messages)})
