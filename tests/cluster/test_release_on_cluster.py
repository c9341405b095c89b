"""A release to a cluster: rollout first, champion last; every interruption leaves a consistent state."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import pytest

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ConflictError, LocalStore
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes import api as kubernetes_api
from mistere.registry.release import journal as module
from mistere.registry.release.atomic_release import release
from mistere.registry.release.champion import Champion, read_champion
from mistere.registry.release.journal import Journal
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.recovery import is_released, open_release, recover, recover_patiently
from mistere.serving.deployment import Deployment, RollbackError, read_deployment
from mistere.serving.kserve.cluster_release import Rolling
from mistere.serving.kserve.live_service import service_path
from tests.cluster.conftest import Cluster
from tests.stand_ins.kubernetes_server import Trouble

CONFIG = DeploymentConfig(mode="standard", ready_timeout=60)
JOURNAL = "deployments/mistere/journal.json"


@pytest.fixture
def store(cluster: Cluster) -> LocalStore:
    return LocalStore(cluster.folder / "store")


def mirror(_: Champion) -> None:
    """A registry that accepts every call."""


def champion(bundle: ArtifactHandle[ModelBundle]) -> Champion:
    return Champion(
        bundle_digest=bundle.manifest.digest,
        evaluation_digest="e" * 64,
        model_name="mistere",
        model_version="1",
        run_id="run",
        moved_at=1.0,
    )


def go(cluster: Cluster, store: LocalStore, bundle: ArtifactHandle[ModelBundle], aliases: Any = mirror) -> Rolling:
    rolling = Rolling(cluster.to(bundle, CONFIG), bundle)
    deployment = cluster.deployment(bundle, CONFIG)
    release(store, aliases, read_champion(store), champion(bundle), deployment, "deploy", "why", "who", rolling)
    return rolling


def journal(store: LocalStore) -> Journal:
    return Journal.model_validate_json(store.read(JOURNAL)[0])


def test_the_champion_moves_when_the_cluster_serves_it(cluster: Cluster, store: LocalStore) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    assert "largest difference" in go(cluster, store, first).message
    pointer = read_deployment(store, "mistere")
    assert pointer.mode == "standard" and pointer == cluster.deployment(first, CONFIG) and is_released(store, pointer)
    seen: list[tuple[str, str]] = []
    rolling = Rolling(cluster.to(second, CONFIG), second)

    def watched(renew_lease: Any) -> Any:
        rolled_out = rolling(renew_lease)
        seen.append((journal(store).state, read_champion(store).digest))
        return rolled_out

    release(
        store,
        mirror,
        read_champion(store),
        champion(second),
        cluster.deployment(second, CONFIG),
        "deploy",
        "why",
        "who",
        watched,
    )
    assert seen == [("pending", first.manifest.digest)], "nothing but the cluster had moved by then"
    assert read_champion(store).digest == cluster.served() == second.manifest.digest
    assert journal(store).state == "done" and rolling.address.startswith("http://")


def test_a_failed_rollout_keeps_champion_and_pointer(cluster: Cluster, store: LocalStore) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    go(cluster, store, first)
    cluster.behave(second, "crash")
    with pytest.raises(MistereError, match="CrashLoopBackOff"):
        go(cluster, store, second)
    assert read_champion(store).digest == cluster.served() == first.manifest.digest
    assert read_deployment(store, "mistere").bundle_digest == first.manifest.digest
    assert journal(store).state == "done" and [event.outcome for event in read_log(store).events] == ["done", "undone"]
    deployed, undone = read_log(store).events
    assert deployed.reason == "why" and re.search(
        r"^The smoke test of bundle .* failed.*CrashLoopBackOff", undone.reason
    )


def test_an_unavailable_registry_rolls_the_cluster_back(cluster: Cluster, store: LocalStore) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    go(cluster, store, first)

    def away(_: Champion) -> None:
        raise MistereError("the MLflow server did not take it.")

    with pytest.raises(MistereError, match="did not take it"):
        go(cluster, store, second, away)
    assert read_champion(store).digest == cluster.served() == first.manifest.digest


@pytest.mark.parametrize("before", [True, False], ids=["one before", "none before"])
def test_the_next_process_rolls_a_killed_release_back(cluster: Cluster, store: LocalStore, before: bool) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    if before:
        go(cluster, store, first)
    left = Journal(
        state="pending",
        host="a pod that is gone",
        process=1,
        since=time.time(),
        deployment_before=store.read("deployments/mistere/deployment.json")[0].decode() if before else "",
        deployment=cluster.deployment(second, CONFIG),
        champion=champion(second),
    )
    cluster.to(second, CONFIG).roll_out(second, lambda: None)
    store.write(JOURNAL, left.sealed())
    os.utime(store.local_path(JOURNAL), (1e9, 1e9))
    assert "rolled back" in recover(store, mirror, "mistere")
    assert cluster.served() == (first.manifest.digest if before else "")
    assert journal(store).state == "done"


def test_the_same_bundle_with_other_settings_is_rolled_out_again(cluster: Cluster, store: LocalStore) -> None:
    first = cluster.bundle("a")
    go(cluster, store, first)
    pointer = read_deployment(store, "mistere")
    larger = CONFIG.model_copy(update={"memory_limit": "16Gi"})
    changed = cluster.deployment(first, larger)
    left = journal(store).model_copy(
        update={
            "state": "pending",
            "host": "a pod that is gone",
            "since": 0.0,
            "deployment": changed,
            "deployment_before": pointer.model_dump_json(),
        }
    )
    to = cluster.to(first, larger)
    to.api.apply(service_path(larger, "mistere"), to.manifest())
    store.write(JOURNAL, left.sealed())
    assert "rolled back" in recover(store, mirror, "mistere")
    assert read_deployment(store, "mistere") == pointer and not is_released(store, changed)
    assert "16Gi" not in json.dumps(cluster.api.find("inferenceservices", "mistere"))


def test_a_process_that_lost_the_journal_does_not_undo_the_next_release(
    cluster: Cluster, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (cluster.bundle(name) for name in "abc")
    go(cluster, store, first)
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.0)

    def stalled(renew_lease: Any) -> Any:
        rollout = cluster.to(second, CONFIG).roll_out(second, lambda: None)
        go(cluster, store, third)
        monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
        try:
            renew_lease()
        except ConflictError:
            rollout.undo()
            raise
        return rollout.undo

    seen = read_champion(store)
    with pytest.raises(ConflictError):
        release(
            store,
            mirror,
            seen,
            champion(second),
            cluster.deployment(second, CONFIG),
            "deploy",
            "why",
            "who",
            stalled,
        )
    assert read_champion(store).digest == cluster.served() == third.manifest.digest
    assert read_deployment(store, "mistere").bundle_digest == third.manifest.digest
    assert journal(store).state == "done" and journal(store).champion.bundle_digest == third.manifest.digest


def test_a_killed_release_into_another_namespace_is_removed_there(cluster: Cluster, store: LocalStore) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    before = cluster.deployment(first, CONFIG.model_copy(update={"namespace": "elsewhere"}))
    deployment = cluster.to(second, CONFIG)
    deployment.roll_out(second, lambda: None)
    deployment.undo(before)
    assert cluster.served() == ""


def test_the_exit_handler_rolls_back_the_release_of_its_run(
    cluster: Cluster, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    go(cluster, store, first)
    assert open_release(store, "run") == ""
    left = journal(store).model_copy(
        update={
            "state": "pending",
            "since": 0.0,
            "deployment": cluster.deployment(second, CONFIG),
            "champion": champion(second),
            "deployment_before": store.read("deployments/mistere/deployment.json")[0].decode(),
        }
    )
    store.write(JOURNAL, left.sealed())
    assert open_release(store, "another") == "" and open_release(store, "run") == "mistere"


def test_a_failed_rollback_is_completed_by_the_next_release(
    cluster: Cluster, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "_RETRY_SECONDS", (0.01,))
    first, second = cluster.bundle("a"), cluster.bundle("b")
    go(cluster, store, first)
    cluster.behave(second, "crash", "mistere")
    forced = "inferenceservices/mistere?fieldManager=mistere&fieldValidation=Strict&force=true"
    cluster.server.troubles.append(Trouble("PATCH", 503, times=99, path=forced))
    with pytest.raises(RollbackError, match=r"CrashLoopBackOff.*could not be undone yet.*the next release"):
        go(cluster, store, second)
    assert cluster.served() == second.manifest.digest and read_champion(store).digest == first.manifest.digest
    assert journal(store).state == "pending"
    cluster.server.troubles.clear()
    assert "rolled back" in recover(store, mirror, "mistere")
    assert cluster.served() == first.manifest.digest and journal(store).state == "done"


def test_a_restarted_pod_waits_for_the_previous_lease(
    cluster: Cluster, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cluster.bundle("a")
    go(cluster, store, first)
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    held_journal = journal(store).model_copy(update={"state": "deployed", "host": "elsewhere", "since": time.time()})
    store.write(JOURNAL, held_journal.sealed())
    with pytest.raises(ConflictError, match="in progress"):
        recover(store, mirror, "mistere")
    assert "completed" in recover_patiently(store, mirror, "mistere")


def test_a_rollout_renews_its_lease(cluster: Cluster, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
    first = cluster.bundle("a")
    since: list[float] = []

    def roll_out(renew_lease: Any) -> Any:
        for _ in range(3):
            since.append(journal(store).since)
            time.sleep(0.01)
            renew_lease()
        return lambda: None

    release(
        store,
        mirror,
        read_champion(store),
        champion(first),
        cluster.deployment(first, CONFIG),
        "deploy",
        "why",
        "who",
        roll_out,
    )
    assert since == sorted(set(since)) and len(since) == 3


def test_a_pointer_of_an_earlier_release_is_a_local_deployment(store: LocalStore) -> None:
    store.write(
        "deployments/mistere/deployment.json",
        b'{"service": "mistere", "bundle_location": "/x", "bundle_digest": "y", "model_version": "1"}',
    )
    pointer = read_deployment(store, "mistere")
    assert pointer == Deployment(service="mistere", bundle_location="/x", bundle_digest="y", model_version="1")
    assert pointer.mode == "local"


def test_a_deleted_service_does_not_count_as_deployed(cluster: Cluster, store: LocalStore) -> None:
    bundle = cluster.bundle("a")
    go(cluster, store, bundle)
    to = cluster.to(bundle, CONFIG)
    assert to.serves() and is_released(store, cluster.deployment(bundle, CONFIG))
    cluster.api.remove("inferenceservices", "mistere")
    assert to.serves() == ""
