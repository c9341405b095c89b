"""Fixtures: a stand-in cluster with KServe, bundles to deploy to it, and its kubeconfig."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mistere.artifacts.io import ArtifactHandle, publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.config.deployment import DeploymentConfig
from mistere.data.dataset import Utterance
from mistere.kubernetes.api import connect
from mistere.serving import protocol
from mistere.serving.deployment import Deployment
from mistere.serving.example_dialogue import Example, write_example
from mistere.serving.kserve.cluster_release import on_cluster
from mistere.serving.kserve.rollout import ClusterDeployment
from tests.stand_ins.kserve_controller import Controller
from tests.stand_ins.kubernetes_api import KubernetesApi
from tests.stand_ins.kubernetes_server import KubernetesServer
from tests.stand_ins.predictor import LightPredictor

IMAGE = "registry.example/mistere-predictor@sha256:" + "b" * 64
EXPECTED = [[0.75, 0.25], [0.5, 0.5]]


@dataclass
class Cluster:
    """The stand-in, and the bundles deployed to it."""

    api: KubernetesApi
    server: KubernetesServer
    controller: Controller
    folder: Path
    answers: dict[str, list[list[float]]]
    token: str = "admin"
    messages: list[str] = field(default_factory=list)

    def kubeconfig(self, token: str = "admin") -> Path:
        path = self.folder / f"kubeconfig-{token}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": {"server": self.server.url}}],
            "users": [{"name": "me", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def bundle(self, name: str, answers: list[list[float]] | None = None, **fields: Any) -> ArtifactHandle[ModelBundle]:
        """A bundle with an example dialogue, and other ``fields``; its pods return the expected predictions, or ``answers``."""
        work = self.folder / f"bundle-{name}"
        work.mkdir()
        dialogue = [
            Utterance("example", turn, "", text, None) for turn, text in enumerate(("Where were you?", "Here."))
        ]
        write_example(work, Example(dialogue, np.array(EXPECTED, np.float32)))
        manifest = ModelBundle(
            name=name,
            labels=["anger", "joy"],
            experts=["text"],
            temperature=1.0,
            test_digest="0" * 64,
            metrics={},
            dvc_digest="0" * 32,
            **{"encoders": {}, **fields},
        )
        store = LocalStore(self.folder / "store")
        published = publish(store, manifest, work)
        self.answers[published.digest] = answers or EXPECTED
        return ArtifactHandle(store.local_path(f"artifacts/ModelBundle/{published.digest}"), published)

    def deployment(
        self, bundle: ArtifactHandle[ModelBundle], config: DeploymentConfig, image: str = IMAGE
    ) -> Deployment:
        digest = bundle.manifest.digest
        location = f"s3://models/mistere/artifacts/ModelBundle/{digest}"
        pointer = Deployment(service=config.service, bundle_location=location, bundle_digest=digest, model_version="1")
        return on_cluster(pointer, config, image)

    def to(
        self, bundle: ArtifactHandle[ModelBundle], config: DeploymentConfig, image: str = IMAGE
    ) -> ClusterDeployment:
        return ClusterDeployment(connect(), self.deployment(bundle, config, image), self.messages.append)

    def behave(self, bundle: ArtifactHandle[ModelBundle], how: str, service: str = "") -> None:
        name = bundle.manifest.digest[:12]
        self.controller.behaviours[f"{service}/{name}" if service else name] = how

    def served(self) -> str:
        """Digest of the bundle that the service's spec names; empty for none."""
        live = self.api.find("inferenceservices", "mistere")
        if live is None or live["metadata"].get("deletionTimestamp"):
            return ""
        return str(live["spec"]["predictor"]["annotations"]["mistere/bundle-digest"])


@pytest.fixture
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods listen on unused local ports."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        monkeypatch.setattr(protocol, "HTTP_PORT", int(first.getsockname()[1]))
        monkeypatch.setattr(protocol, "GRPC_PORT", int(second.getsockname()[1]))


@pytest.fixture
def make_cluster(tmp_path: Path, free_ports: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    clusters: list[Cluster] = []
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def make(start: Any = None, **options: Any) -> Cluster:
        answers: dict[str, list[list[float]]] = {}
        api = KubernetesApi(**options)
        controller = Controller(api, start or (lambda container, address: LightPredictor(container, address, answers)))
        cluster = Cluster(api, KubernetesServer(api), controller, tmp_path, answers)
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        cluster.server.stop()
        cluster.controller.stop()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster()
