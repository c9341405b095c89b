"""The way back from a canary in Standard mode when it is interrupted itself, or comes after the service was updated."""

from __future__ import annotations

from typing import Any

import pytest

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ConflictError, LocalStore
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.registry.mlflow.model_registry import RegisteredVersion
from mistere.registry.release.canary import end_canary, standing_canary
from mistere.registry.release.candidates import reject_candidate
from mistere.registry.release.champion import Champion, read_champion
from mistere.registry.release.recovery import recover
from mistere.serving.deployment import RollbackError
from mistere.serving.kserve.canary.held_pods import HeldPods
from mistere.serving.kserve.canary.live_figures import LiveCounter
from mistere.serving.kserve.canary.route import Route
from mistere.serving.kserve.inference_service import REVISION_LABEL, revision_of
from mistere.serving.kserve.rollout import ClusterDeployment
from mistere.serving.kserve.smoke_test import SmokeTest
from pipelines.cli.commands.registry import promote as command
from pipelines.cli.registry_location import RegistryLocation
from tests.cluster import test_release_on_cluster as released
from tests.cluster.canary.conftest import (
    CANDIDATE,
    CHAMPION_ONLY,
    CONFIG,
    SERVICE,
    Release,
    all_is_back,
    hold,
    lineage_of,
)
from tests.cluster.conftest import Cluster
from tests.stand_ins.gateway import Gateway

pytestmark = pytest.mark.usefixtures("at_once")

SCALED = CONFIG.model_copy(update={"min_replicas": 1, "max_replicas": 3})


def stop(*_: object, **__: object) -> None:
    """Ctrl-C, or what the kernel sends when the process is to end."""
    raise KeyboardInterrupt


def defect(*_: object, **__: object) -> None:
    raise AttributeError("'NoneType' object has no attribute 'get'")


@pytest.mark.parametrize(("second", "named"), [(stop, "The process was stopped"), (defect, "AttributeError")])
@pytest.mark.parametrize("by_hand", [False, True])
def test_an_undo_that_is_interrupted_leaves_the_journal_open(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
    second: Any,
    named: str,
    by_hand: bool,
) -> None:
    old, new = cluster.bundle("a"), cluster.bundle("b")
    release(old)
    with monkeypatch.context() as patched:
        if by_hand:
            split = Route.split

            def split_and_stop(route: Route, share: int | None, *arguments: Any, **options: Any) -> None:
                split(route, share, *arguments, **options)
                stop()

            patched.setattr(Route, "split", split_and_stop)
        else:
            patched.setattr(LiveCounter, "read", stop)
        patched.setattr(Route, "restore", second)
        with pytest.raises(RollbackError, match=rf"The process was stopped\. .*could not be undone yet \(.*{named}"):
            hold(cluster, store, new, 10) if by_hand else release(new)
    assert gateway.weights == {SERVICE: 90, CANDIDATE: 10}
    left = released.journal(store)
    assert (left.state, left.since, left.share) == ("pending", 0.0, 10)
    assert "rolled back" in recover(store, released.mirror, "mistere")
    all_is_back(cluster, gateway, old)


def minimum(cluster: Cluster) -> Any:
    service: Any = cluster.api.find("inferenceservices", "mistere")
    return service["spec"]["predictor"]["minReplicas"]


def go(
    cluster: Cluster,
    store: LocalStore,
    bundle: ArtifactHandle[ModelBundle],
    config: DeploymentConfig,
    monkeypatch: pytest.MonkeyPatch,
    aliases: Any = released.mirror,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(released, "CONFIG", config)
        released.go(cluster, store, bundle, aliases)


@pytest.mark.long
def test_the_kept_pods_go_if_the_end_of_the_release_fails(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A share by hand has raised the minimum before the release reads what it may have to restore."""
    old, new = cluster.bundle("a"), cluster.bundle("b")
    go(cluster, store, old, SCALED, monkeypatch)
    monkeypatch.setattr(HeldPods, "replicas", lambda _: 2)  # the stand-in has no autoscaler
    hold(cluster, store, new, 100, SCALED)
    assert minimum(cluster) == 2

    def away(_: Champion) -> None:
        raise MistereError("the MLflow server did not take it.")

    with pytest.raises(MistereError, match="did not take it"):
        go(cluster, store, new, SCALED, monkeypatch, away)
    assert minimum(cluster) == 1
    all_is_back(cluster, gateway, old)


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True])
def test_the_candidate_answers_until_the_previous_pods_are_back(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
) -> None:
    """The service fails once all of its pods have the new model: none of them may get the requests of the candidate."""
    old, new = cluster.bundle("a"), cluster.bundle("b")
    release(old)
    previous = revision_of(cluster.to(old, CONFIG).manifest())
    settle = SmokeTest.settle
    answering: list[set[str]] = []

    def fail(*arguments: Any, **options: Any) -> None:
        settle(*arguments, **options)
        gateway.on_change = note
        raise MistereError("the service gives another answer.")

    def note(weights: dict[str, int]) -> None:
        if weights == CHAMPION_ONLY:
            pods = [pod for pod in cluster.api.all("pods") if pod["metadata"]["name"].startswith(SERVICE)]
            answering.append({pod["metadata"]["labels"][REVISION_LABEL] for pod in pods})

    with monkeypatch.context() as patched:
        patched.setattr(SmokeTest, "settle", fail)
        if killed:
            patched.setattr(ClusterDeployment, "_undo_after", stop)
        with pytest.raises(KeyboardInterrupt if killed else MistereError):
            release(new)
    if killed:
        left = released.journal(store).model_copy(update={"state": "pending", "since": 0.0, "share": 100})
        store.write(released.JOURNAL, left.sealed())
        assert "rolled back" in recover(store, released.mirror, "mistere")
    assert answering == [{previous}]
    all_is_back(cluster, gateway, old)


def test_a_share_that_the_route_has_lost_is_none(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Taking it back fails before and after the Gateway has confirmed the route."""
    old, new = cluster.bundle("a"), cluster.bundle("b")
    release(old)
    hold(cluster, store, new, 20)
    gateway.refuses = "Pending"
    with pytest.raises(MistereError, match="does not take the route"):
        end_canary(store, "mistere", "why", "who")
    assert (released.journal(store).state, released.journal(store).share) == ("canary", 20)
    gateway.refuses = ""
    with monkeypatch.context() as patched:
        patched.setattr(HeldPods, "release", stop)
        with pytest.raises(KeyboardInterrupt):
            end_canary(store, "mistere", "why", "who")
    standing = standing_canary(store, "mistere")
    assert standing is not None and standing.share == 0
    assert end_canary(store, "mistere", "why", "who") is not None
    all_is_back(cluster, gateway, old)


@pytest.mark.parametrize("canary", [None, 10])
def test_a_version_that_is_rejected_after_the_look_gets_no_requests(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
    canary: int | None,
) -> None:
    """``mistere reject`` comes after ``mistere promote`` has looked whether it may release the version."""
    old, new = cluster.bundle("a"), cluster.bundle("b")
    release(old)
    digest = new.manifest.digest
    version = RegisteredVersion("mistere", "2", digest, "", (), {}, 0.0)
    lineage = lineage_of(digest)
    monkeypatch.setattr(RegistryLocation, "find", lambda *_: (version, lineage))
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    bundle_needs = command.bundle_needs

    def rejected(*arguments: Any) -> Any:
        reject_candidate(store, digest, "2", "Bad.", "bob")
        return bundle_needs(*arguments)

    monkeypatch.setattr(command, "bundle_needs", rejected)
    with pytest.raises(ConflictError, match="bob rejected version 2 meanwhile"):
        command.promote(RegistryLocation(store, ""), "mistere/2", "", "", canary)
    assert gateway.seen == [CHAMPION_ONLY] and read_champion(store).digest == old.manifest.digest
    all_is_back(cluster, gateway, old)
