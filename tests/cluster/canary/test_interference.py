"""A canary that others interfere with: a process that wakes too late, a route that is edited by hand, a store or a Gateway that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from mistere.artifacts.object_store import ConflictError, LocalStore, UnreachableError
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.kubernetes.api import KubernetesApi
from mistere.registry.mlflow.model_registry import RegisteredVersion
from mistere.registry.release import journal as journal_module
from mistere.registry.release import recovery
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.recovery import recover
from mistere.registry.release.unfinished import unfinished_releases
from mistere.serving.kserve.canary.route import route_path
from mistere.serving.kserve.live_service import service_path
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
    shares,
)
from tests.cluster.conftest import Cluster
from tests.stand_ins.gateway import Gateway

pytestmark = pytest.mark.usefixtures("at_once")


def backends(*weights: tuple[str, int]) -> dict[str, Any]:
    refs = [{"name": name, "port": 80, "weight": weight} for name, weight in weights]
    return {"spec": {"rules": [{"backendRefs": refs}]}}


def before_share(share: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Act once, after a process has recorded a share and before the API server gets the route that gives it."""
    apply, over = KubernetesApi.apply, []

    def delayed(api: KubernetesApi, path: str, manifest: Any, **options: Any) -> Any:
        weights = [one["weight"] for rule in manifest["spec"].get("rules", []) for one in rule["backendRefs"]]
        if path == route_path(CONFIG) and weights == [100 - share, share] and not over:
            over.append(path)
            act()
        return apply(api, path, manifest, **options)

    monkeypatch.setattr(KubernetesApi, "apply", delayed)


def test_a_process_that_wakes_after_its_release_was_taken_back_gives_no_share(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A laptop is closed for longer than the lease; its next call gives requests to a candidate that was deleted meanwhile."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)

    def take_back() -> None:
        with monkeypatch.context() as later:
            later.setattr(journal_module, "LEASE_SECONDS", -1.0)
            assert "rolled back" in recover(store, released.mirror, "mistere")

    before_share(10, take_back, monkeypatch)
    with pytest.raises(ConflictError, match="another process took it over"):
        release(second)
    assert shares(10)[0] not in gateway.seen
    all_is_back(cluster, gateway, first)
    assert released.journal(store).state == "done" and read_log(store).events[-1].outcome == "undone"


@pytest.mark.parametrize("again", [False, True], ids=["a canary of another version", "the same version"])
def test_a_process_that_wakes_after_the_update_of_the_service_leaves_the_next_release_alone(
    again: bool,
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The candidate, the share and the service are those of the next release then, even where its version is the same."""
    first, second, third = (cluster.bundle(name) for name in "abc")
    release(first)
    ready, over = SmokeTest._ready_pod, []

    def delayed(test: SmokeTest, *waiting: Any) -> Any:
        pod = ready(test, *waiting)
        if test.path == service_path(CONFIG, CONFIG.service) and not over:
            over.append(pod)
            with monkeypatch.context() as later:
                later.setattr(journal_module, "LEASE_SECONDS", -1.0)
                recover(store, released.mirror, "mistere")
            if again:
                release(second)
            else:
                hold(cluster, store, third, 10)
            monkeypatch.setattr(journal_module, "RENEW_SECONDS", 0.0)
        return pod

    monkeypatch.setattr(SmokeTest, "_ready_pod", delayed)
    with pytest.raises(ConflictError, match="another process took it over"):
        release(second)
    if again:
        all_is_back(cluster, gateway, second)
        assert read_champion(store).digest == second.manifest.digest
        return
    assert gateway.weights == shares(10)[0] and cluster.served() == first.manifest.digest
    assert cluster.api.find("inferenceservices", "mistere-candidate")
    assert released.journal(store).state == "canary" and released.journal(store).share == 10


def test_a_status_that_is_written_at_the_same_time_ends_no_release(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Gateway's controller changes the route's version whenever it likes."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    label = {"metadata": {"labels": {"touched": "yes"}}}
    before_share(10, lambda: cluster.api.edit("httproutes", "mistere-route", label), monkeypatch)
    hold(cluster, store, second, 10)
    assert gateway.weights == shares(10)[0] and cluster.served() == first.manifest.digest


@pytest.mark.long
def test_weights_that_are_edited_during_a_step_end_the_release(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)

    def edit(weights: dict[str, int]) -> None:
        if weights.get(CANDIDATE) == 10:
            cluster.api.edit("httproutes", "mistere-route", backends((SERVICE, 5), (CANDIDATE, 95)))

    gateway.on_change = edit
    with pytest.raises(MistereError, match=r"other field managers own .*kubectl-edit"):
        release(second)
    all_is_back(cluster, gateway, first)
    assert released.journal(store).state == "done"


@pytest.mark.long
def test_a_route_that_is_deleted_during_a_step_is_made_again(
    cluster: Cluster, gateway: Gateway, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    watch = gateway.on_change

    def delete(weights: dict[str, int]) -> None:
        if weights.get(CANDIDATE) == 50:
            gateway.on_change = watch
            cluster.api.remove("httproutes", "mistere-route")

    gateway.on_change = delete
    try:
        release(second)
    except MistereError:
        all_is_back(cluster, gateway, first)
    else:
        all_is_back(cluster, gateway, second)


@pytest.fixture
def location(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> RegistryLocation:
    """A registry whose every version is the champion."""

    def find(*_: object) -> tuple[RegisteredVersion, Any]:
        digest = read_champion(store).digest
        return RegisteredVersion("mistere", "2", digest, "", (), {}, 0.0), lineage_of(digest)

    monkeypatch.setattr(RegistryLocation, "find", find)
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    return RegistryLocation(store, "")


def test_promoting_the_champion_sets_an_edited_route_right(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    """No release is unfinished, so nothing but the route says that another version gets requests."""
    first = cluster.bundle("a")
    release(first)
    assert cluster.to(first, CONFIG).serves()
    cluster.api.edit("httproutes", "mistere-route", backends((SERVICE, 90), (CANDIDATE, 10)))
    assert unfinished_releases(store) == [] and cluster.to(first, CONFIG).serves() == ""
    release(first)
    all_is_back(cluster, gateway, first)
    assert cluster.to(first, CONFIG).serves()


def test_a_store_that_goes_away_between_the_steps_takes_the_share_back(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route needs no store: the requests go back at once, and the journal follows when the store answers again."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    monkeypatch.setattr(journal_module, "RENEW_SECONDS", 0.0)
    write = LocalStore.write

    def away(self: LocalStore, key: str, data: bytes, expected: str | None = None) -> str:
        if shares(10)[0] in gateway.seen:
            raise UnreachableError("the store does not answer.")
        return write(self, key, data, expected)

    with monkeypatch.context() as outage:
        outage.setattr(LocalStore, "write", away)
        with pytest.raises(MistereError, match=r"the store does not answer.*the next run or release"):
            release(second)
    all_is_back(cluster, gateway, first)
    assert gateway.seen[-2:] == [*shares(10), CHAMPION_ONLY]
    monkeypatch.setattr(journal_module, "LEASE_SECONDS", -1.0)
    assert "rolled back" in recover(store, released.mirror, "mistere")
    all_is_back(cluster, gateway, first)
    assert released.journal(store).state == "done"


@pytest.mark.long
def test_a_slow_gateway_is_waited_for(cluster: Cluster, gateway: Gateway, release: Release) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    gateway.on_change = lambda _: time.sleep(0.5)
    release(second)
    all_is_back(cluster, gateway, second)


@pytest.mark.long
def test_a_second_release_at_the_same_time_changes_nothing_on_the_cluster(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (cluster.bundle(name) for name in "abc")
    release(first)
    monkeypatch.setattr(recovery, "PATIENCE_SECONDS", 0.3)
    refused: list[str] = []

    def compete(weights: dict[str, int]) -> None:
        if weights.get(CANDIDATE) == 10 and not refused:
            before = len(cluster.server.changes())
            for attempt in (lambda: released.go(cluster, store, third), lambda: hold(cluster, store, third, 30)):
                with pytest.raises(ConflictError, match="in progress"):
                    attempt()
                refused.append("in progress")
            assert len(cluster.server.changes()) == before

    gateway.on_change = compete
    release(second)
    assert len(refused) == 2
    all_is_back(cluster, gateway, second)


def test_a_damaged_journal_of_a_canary_is_named_and_the_champion_can_be_released_over_it(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    location: RegistryLocation,
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    hold(cluster, store, second, 10)
    journal = store.local_path(released.JOURNAL)
    journal.write_bytes(journal.read_bytes().replace(b'"share": 10', b'"share": 20'))
    for act in (lambda: command.rollback(location, ""), lambda: command.promote(location, "2", "", "")):
        with pytest.raises(ArtifactError, match=r"journal\.json is damaged.*move it away and run `mistere promote`"):
            act()
    assert gateway.weights == shares(10)[0]
    journal.unlink()
    command.promote(location, "2", "", "")
    all_is_back(cluster, gateway, first)


def test_a_service_that_was_deleted_during_a_canary_is_deployed_again_over_its_journal(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, location: RegistryLocation
) -> None:
    """From outside, an empty namespace looks like another cluster; the refusal says what to do."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    hold(cluster, store, second, 10)
    cluster.api.remove("inferenceservices", "mistere")
    left = released.journal(store).model_copy(update={"state": "pending", "since": 0.0})
    store.write(released.JOURNAL, left.sealed())
    for act in (
        lambda: command.rollback(location, "", unfinished=True),
        lambda: command.promote(location, "2", "", ""),
    ):
        with pytest.raises(
            UsageError, match=r"serves nothing.*mistere/journal\.json in the store\) away and run `mistere promote`"
        ):
            act()
    store.local_path(released.JOURNAL).unlink()
    command.promote(location, "2", "", "")
    all_is_back(cluster, gateway, first)


def test_a_rollback_against_another_cluster_is_refused_and_closes_no_journal(
    cluster: Cluster,
    make_cluster: Callable[..., Cluster],
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kubeconfig's context is that of staging, whose service has the same name."""
    first, second, third = (cluster.bundle(name) for name in "abc")
    release(first)
    hold(cluster, store, second, 10)
    left = released.journal(store).model_copy(update={"state": "pending", "since": 0.0})
    store.write(released.JOURNAL, left.sealed())
    staging = make_cluster()
    staging.controller.stop()
    for serves in ("nothing", third.manifest.digest[:12]):
        with pytest.raises(
            UsageError,
            match=rf"not the one of the interrupted release.* serves .*{serves}.*use-context.*mistere/journal\.json",
        ):
            recover(store, released.mirror, "mistere")
        assert (released.journal(store).state, released.journal(store).share) == ("pending", 10)
        staging.api.write("inferenceservices", staging.to(third, CONFIG).manifest())
    assert staging.server.changes() == [] and gateway.weights == shares(10)[0]
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    assert "rolled back" in recover(store, released.mirror, "mistere")
    all_is_back(cluster, gateway, first)
