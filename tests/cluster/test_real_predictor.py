"""``deploy_model``, promotion and rollback against pods that are real predictors, with a store in S3 and a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifests import EvaluationReport, ModelBundle
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import UsageError
from mistere.common.progress import Progress
from mistere.config.deployment import DeploymentConfig
from mistere.engine.stage import RunContext, Step
from mistere.kubernetes.api import KubernetesApi
from mistere.registry.lineage import Lineage, write_lineage
from mistere.registry.release.champion import NO_CHAMPION, read_champion
from mistere.serving.deployment import read_deployment
from mistere.serving.kserve.cluster_release import on_cluster
from mistere.serving.kserve.rollout import ClusterDeployment
from tests.cluster.conftest import Cluster
from tests.unit.conftest import s3_endpoint

__all__ = ["s3_endpoint"]

ROOT = Path(__file__).resolve().parents[2]
CONFIG = DeploymentConfig(mode="standard", ready_timeout=120, storage_secret="mistere-storage")


class Container:
    """Runs a container's command locally, with only the store settings of its manifest."""

    def __init__(
        self, container: dict[str, Any], address: str, secrets: dict[str, dict[str, str]], cache: Path
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        for entry in container["env"]:
            reference = entry.get("valueFrom", {}).get("secretKeyRef", {})
            value = entry.get("value") or secrets.get(reference.get("name", ""), {}).get(reference.get("key", ""))
            if value is not None:
                environment[entry["name"]] = value
        environment |= {"MISTERE_CACHE": str(cache), "PYTHONPATH": str(ROOT), "AWS_EC2_METADATA_DISABLED": "true"}
        command = [sys.executable, *container["command"][1:], *container["args"]]
        self._process = subprocess.Popen(
            [*command, "--host", address, "--drain-seconds", "0"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    import boto3

    for key, value in secret(s3_endpoint).items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket="models")
    return S3Store(f"s3://models/{uuid.uuid4().hex}")


def secret(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], s3: S3Store, s3_endpoint: str, tmp_path: Path) -> Iterator[Cluster]:
    secrets = {"mistere-storage": secret(s3_endpoint)}
    yield make_cluster(lambda container, address: Container(container, address, secrets, tmp_path / "pods"))


def release_candidate(folder: Path, store: ObjectStore, **mixture: Any) -> ArtifactHandle[ModelBundle]:
    """A small real bundle with its example in the S3 store, its base weights too."""
    import numpy as np

    from mistere.data.dataset import Utterance
    from mistere.model.inference import load_bundle
    from mistere.serving.example_dialogue import Example, write_example
    from tests.serving.conftest import make_bundle

    location = Path(make_bundle(folder, ("text",), **mixture))
    bundle_store = LocalStore(folder / "store")
    dialogue = [Utterance("example", turn, "", text) for turn, text in enumerate(("Where have you been?", "At home."))]
    expected = load_bundle(str(location)).predict([dialogue])[0].probabilities
    work = folder / "with-example"
    shutil.copytree(location, work, ignore=shutil.ignore_patterns("manifest.json"))
    write_example(work, Example(dialogue, np.asarray(expected)))
    for key in list(bundle_store.keys("artifacts/BaseEncoder")):
        store.upload(bundle_store.local_path(key), key)
    manifest = open_artifact(bundle_store, ModelBundle, location.name).manifest.model_copy(
        update={"files": {}, "digest": ""}
    )
    return open_artifact(store, ModelBundle, publish(store, manifest, work).digest)


def register(tracking_uri: str, store: ObjectStore, bundle: ArtifactHandle[ModelBundle]) -> str:
    """Register a version with its provenance."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri)
    try:
        client.create_registered_model("mistere")
    except MlflowException:
        client.get_registered_model("mistere")
    digest = bundle.manifest.digest
    location = store.location(f"artifacts/ModelBundle/{digest}")
    version = client.create_model_version("mistere", location, tags={"mistere.bundle_digest": digest}).version
    write_lineage(
        store,
        Lineage(
            model_name="mistere",
            model_version=str(version),
            run=RunIdentity(run_id=f"run-{version}", commit="c" * 40),
            bundle_digest=digest,
            bundle_location=location,
            evaluation_digest="e" * 64,
            test_digest="0" * 64,
            verdict="promote",
            dataset="sample",
            dvc_digest="0" * 32,
            data_remote="",
        ),
    )
    return str(version)


@pytest.mark.long
def test_a_run_deploys_and_users_promote_and_roll_back(
    cluster: Cluster, s3: S3Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kubernetes.client import Configuration

    from components.deploy_model.run import run
    from pipelines.cli.commands.registry.promote import promote, rollback
    from pipelines.cli.registry_location import RegistryLocation

    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = release_candidate(tmp_path / "one", s3)
    second = release_candidate(tmp_path / "two", s3, context_mode="causal")
    assert first.manifest.digest != second.manifest.digest
    versions = [register(tracking, s3, bundle) for bundle in (first, second)]
    report = ArtifactHandle(
        tmp_path, EvaluationReport.model_construct(kind="EvaluationReport", digest="e" * 64, inputs={}, files={})
    )

    def deploy(
        bundle: ArtifactHandle[ModelBundle], version: str, champion: str, config: DeploymentConfig = CONFIG
    ) -> Any:
        context = RunContext(run_id=f"run-{version}", store=s3.uri, tracking_uri=tracking)
        checkpoints = Checkpoints(s3, "deploy_model", "key")
        step = Step("deploy_model", "key", context, s3, Progress("deploy_model"), checkpoints)
        return run(config, step, report, bundle, version, champion).values

    with pytest.raises(UsageError, match=r"needs deployment.mode=knative"):
        deploy(first, versions[0], NO_CHAMPION, CONFIG.model_copy(update={"canary_percent": 5}))
    values = deploy(first, versions[0], NO_CHAMPION)
    assert "example dialogue of 2 utterances by REST" in values["message"] and values["endpoint"].startswith("http")
    assert deploy(first, versions[0], NO_CHAMPION)["message"].endswith("stays deployed.")
    deploy(second, versions[1], first.manifest.digest)
    assert cluster.served() == read_champion(s3).digest == second.manifest.digest
    assert read_deployment(s3, "mistere").mode == "standard"

    registry_location = RegistryLocation(s3, tracking)
    rollback(registry_location, "")
    assert cluster.served() == read_champion(s3).digest == first.manifest.digest
    assert "It answers at http" in " ".join(capsys.readouterr().out.split())
    promote(registry_location, versions[1], "mistere", "")
    assert cluster.served() == read_champion(s3).digest == second.manifest.digest
    promote(registry_location, versions[1], "mistere", "")
    assert "stays deployed" in capsys.readouterr().out

    configuration = Configuration(host=cluster.server.url, api_key={"authorization": "bearer admin"})
    pointer = on_cluster(read_deployment(s3, "mistere"), CONFIG, "registry.example/other@sha256:" + "c" * 64)
    inside = ClusterDeployment(KubernetesApi(configuration, inside=True), pointer, cluster.messages.append)
    assert "by REST and gRPC" in inside.roll_out(second, lambda: None).message
