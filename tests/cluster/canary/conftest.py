"""Fixtures of canaries: live requests through a Gateway, and releases whose pods answer them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.config.canary import CanaryConfig, GatewayConfig
from mistere.config.deployment import DeploymentConfig
from mistere.registry.lineage import Lineage
from mistere.registry.release.canary import hold_canary
from mistere.serving.kserve.canary import route as route_module
from mistere.serving.kserve.canary.by_hand import start_canary
from mistere.serving.kserve.cluster_release import Rolling
from tests.cluster import test_release_on_cluster as released
from tests.cluster.canary.traffic import Traffic
from tests.cluster.conftest import Cluster
from tests.cluster.observer import is_gone
from tests.stand_ins.gateway import Gateway
from tests.stand_ins.predictor import LightPredictor

CONFIG = DeploymentConfig(
    mode="standard",
    ready_timeout=60,
    gateway=GatewayConfig(name="public"),
    canary=CanaryConfig(window_seconds=0.2, min_requests=50),
)
SERVICE, CANDIDATE = "mistere-predictor", "mistere-candidate-predictor"
CHAMPION_ONLY = {SERVICE: 100}


def shares(*steps: int) -> list[dict[str, int]]:
    """The weights of a release that goes through these shares."""
    return [{SERVICE: 100 - share, CANDIDATE: share} for share in steps]


@pytest.fixture(name="traffic")
def send_requests() -> Iterator[Traffic]:
    traffic = Traffic()
    yield traffic
    traffic.stop()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's proxies apply a route at once."""
    monkeypatch.setattr(route_module, "SETTLING_SECONDS", 0.0)
    monkeypatch.setattr(route_module, "_ACCEPTED_SECONDS", 1.0)


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster], traffic: Traffic) -> Cluster:
    made: list[Cluster] = []

    def start(container: Any, address: str) -> LightPredictor:
        return LightPredictor(container, address, made[0].answers, traffic.metrics)

    made.append(make_cluster(start))
    return made[0]


@pytest.fixture
def gateway(cluster: Cluster, traffic: Traffic) -> Iterator[Gateway]:
    gateway = Gateway(cluster.api)
    traffic.begin(cluster, gateway)
    yield gateway
    gateway.stop()


@pytest.fixture
def store(cluster: Cluster) -> LocalStore:
    return LocalStore(cluster.folder / "store")


Release = Callable[..., Rolling]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, store: LocalStore) -> Release:
    def go(bundle: ArtifactHandle[ModelBundle], config: DeploymentConfig = CONFIG) -> Rolling:
        monkeypatch.setattr(released, "CONFIG", config)
        return released.go(cluster, store, bundle)

    return go


def all_is_back(cluster: Cluster, gateway: Gateway, champion: ArtifactHandle[ModelBundle]) -> None:
    """The champion serves every request, and there is no candidate."""
    assert gateway.weights == CHAMPION_ONLY and cluster.served() == champion.manifest.digest
    assert is_gone(cluster, "mistere-candidate")


def hold(
    cluster: Cluster,
    store: LocalStore,
    bundle: ArtifactHandle[ModelBundle],
    share: int,
    config: DeploymentConfig = CONFIG,
) -> str:
    deployment = cluster.deployment(bundle, config)
    return hold_canary(
        store,
        released.mirror,
        released.champion(bundle),
        deployment,
        share,
        "why",
        "who",
        lambda renew_lease: start_canary(cluster.to(bundle, config), bundle, share, renew_lease),
    )


def lineage_of(digest: str) -> Lineage:
    """The lineage of version 2, as far as the commands read it."""
    return Lineage.model_construct(
        model_name="mistere",
        model_version="2",
        bundle_digest=digest,
        bundle_location=f"s3://models/mistere/artifacts/ModelBundle/{digest}",
        evaluation_digest="e" * 64,
        run=RunIdentity(run_id="run-2", commit="4f2a9c1"),
    )
