"""``deploy_model`` and ``mistere promote`` release only what is signed, where a key is configured."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from components.deploy_model import run as deploy_model
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.io import ArtifactHandle, artifact_key, open_artifact, publish
from mistere.artifacts.manifests import EvaluationReport, ModelBundle, RunIdentity
from mistere.artifacts.s3.store import S3Store
from mistere.artifacts.signing import SIGNING_KEY_VARIABLE, VERIFYING_KEY_VARIABLE, sign_bundle, write_description
from mistere.common.errors import ArtifactError, MistereError
from mistere.common.progress import Progress
from mistere.config.deployment import DeploymentConfig
from mistere.engine.stage import RunContext, Step
from mistere.registry.lineage import Lineage
from mistere.registry.release.champion import NO_CHAMPION, read_champion
from mistere.serving.deployment import Deployment, deployed_services, deployment_key
from mistere.serving.kserve.cluster_release import on_cluster
from pipelines.cli.commands.registry import promote
from pipelines.cli.registry_location import RegistryLocation
from pipelines.sign_images import sign
from tests.cluster.conftest import Cluster
from tests.cluster.signed_images import new_key, private, public, push
from tests.stand_ins.http_server import running
from tests.stand_ins.image_registry import Registry
from tests.unit.conftest import s3_endpoint

__all__ = ["s3_endpoint"]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running(Registry()) as server:
        yield server


@pytest.fixture
def store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """An empty store in S3, which a deployment to a cluster needs."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    for name in (SIGNING_KEY_VARIABLE, VERIFYING_KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="models")
    return S3Store(f"s3://models/{uuid.uuid4().hex}")


@pytest.fixture
def bundle(store: S3Store, tmp_path: Path) -> ArtifactHandle[ModelBundle]:
    """A bundle with its description, which a signature covers, and no signature."""
    manifest = ModelBundle(
        name="mistere",
        labels=["anger", "joy"],
        experts=["text"],
        encoders={},
        temperature=1.0,
        test_digest="0" * 64,
        metrics={},
        dvc_digest="0" * 32,
    )
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "mixture.safetensors").write_bytes(b"weights")
    write_description(folder, manifest)
    return open_artifact(store, ModelBundle, publish(store, manifest, folder).digest)


@pytest.fixture
def deploy(store: S3Store, bundle: ArtifactHandle[ModelBundle], tmp_path: Path) -> Callable[[DeploymentConfig], Any]:
    """Run the stage."""

    def run(config: DeploymentConfig) -> Any:
        context = RunContext(run_id="run-1", store=store.uri, tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        checkpoints = Checkpoints(store, "deploy_model", "key")
        step = Step("deploy_model", "key", context, store, Progress("deploy_model"), checkpoints)
        report = ArtifactHandle(
            tmp_path, EvaluationReport.model_construct(kind="EvaluationReport", digest="e" * 64, inputs={}, files={})
        )
        return deploy_model.run(config, step, report, bundle, "1", NO_CHAMPION)

    return run


@pytest.mark.parametrize("mode", ["local", "standard"])
def test_unsigned_bundle_is_refused_before_anything_is_deployed(
    mode: Any, cluster: Cluster, store: S3Store, deploy: Callable[[DeploymentConfig], Any]
) -> None:
    with pytest.raises(ArtifactError, match=r"is not signed, and deployment\.bundle_key requires a signature"):
        deploy(DeploymentConfig(mode=mode, bundle_key=public(new_key())))
    assert read_champion(store).champion is None and deployed_services(store) == []
    assert cluster.server.changes() == []


def test_unsigned_image_is_refused_before_anything_is_deployed(
    cluster: Cluster,
    registry: Registry,
    store: S3Store,
    bundle: ArtifactHandle[ModelBundle],
    deploy: Callable[[DeploymentConfig], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = new_key()
    (tmp_path / "signing.key").write_bytes(private(key))
    monkeypatch.setenv(SIGNING_KEY_VARIABLE, str(tmp_path / "signing.key"))
    assert sign_bundle(store, bundle)
    image = push(registry.host, "predictor")
    monkeypatch.setattr(deploy_model, "image", lambda role: str(image))
    config = DeploymentConfig(mode="standard", bundle_key=public(key), image_key=public(key), ready_timeout=1)
    with pytest.raises(ArtifactError, match=r"is not signed by the key of deployment\.image_key"):
        deploy(config)
    assert read_champion(store).champion is None and cluster.server.changes() == []
    digest = sign(image, key)
    with pytest.raises(MistereError):  # the bundle has no example dialogue to test with, which is read after the checks
        deploy(config)
    service = store.read("runs/run-1/reports/inference_service.yaml")[0].decode()
    assert f"image: {image}@{digest}" in service, "what was signed is deployed, wherever the tag is moved"


def test_promotion_refuses_what_the_deployment_key_did_not_sign(
    store: S3Store,
    bundle: ArtifactHandle[ModelBundle],
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key is one of the settings in the pointer, with which later releases deploy."""
    config = DeploymentConfig(mode="standard", bundle_key=public(new_key()))
    location = store.location(artifact_key("ModelBundle", "f" * 64))
    before = Deployment(service="mistere", bundle_location=location, bundle_digest="f" * 64, model_version="1")
    served = on_cluster(before, config, f"registry.example/predictor@sha256:{'b' * 64}")
    store.write(deployment_key("mistere"), served.model_dump_json().encode())
    lineage = Lineage(
        model_name="mistere",
        model_version="2",
        run=RunIdentity(run_id="run-2", commit="c" * 40),
        bundle_digest=bundle.manifest.digest,
        bundle_location=store.location(artifact_key("ModelBundle", bundle.manifest.digest)),
        evaluation_digest="e" * 64,
        test_digest="0" * 64,
        verdict="promote",
        dataset="sample",
        dvc_digest="0" * 32,
        data_remote="",
    )
    registry = RegistryLocation(store, f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ArtifactError, match=r"is not signed, and deployment\.bundle_key requires a signature"):
        promote.release_version(registry, lineage, "promote", "why")
    assert read_champion(store).champion is None and cluster.server.changes() == []
