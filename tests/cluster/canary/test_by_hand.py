"""A canary whose share is set by hand: it stays until it is released, set again or taken back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError, UsageError
from mistere.config.canary import GatewayConfig
from mistere.registry.release.canary import (
    end_canary,
    standing_canary,
)
from mistere.registry.release.candidates import reject_candidate
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import HeldJournal
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.recovery import recover
from mistere.registry.release.unfinished import unfinished_releases
from mistere.serving.kserve.canary.route import Route
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


@pytest.mark.long
def test_a_share_by_hand_stays_until_it_is_released(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    first, second, third = (cluster.bundle(name) for name in "abc")
    release(first)
    assert "largest difference" in hold(cluster, store, second, 20)
    assert gateway.weights == {SERVICE: 80, CANDIDATE: 20} and read_champion(store).digest == first.manifest.digest
    assert recover(store, released.mirror, "mistere") == "" and standing_canary(store, "mistere") is not None
    with pytest.raises(
        MistereError, match=r"version 1 gets 20 % of the requests of mistere as a canary: .*promote mistere/1"
    ):
        release(third)
    hold(cluster, store, second, 30)
    gateway.seen.clear()
    message = release(second).message
    assert "Canary: 30 %: " in message and "10 %: " not in message
    assert gateway.seen == [*shares(50, 100), CHAMPION_ONLY]
    all_is_back(cluster, gateway, second)
    assert standing_canary(store, "mistere") is None
    assert [(event.action, event.outcome) for event in read_log(store).events] == [
        ("deploy", "done"),
        ("canary", "done"),
        ("canary", "done"),
        ("deploy", "done"),
    ]


@pytest.mark.long
def test_an_attempt_that_changes_nothing_leaves_the_canary(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    hold(cluster, store, second, 20)

    def stands() -> bool:
        journal = standing_canary(store, "mistere")
        return journal is not None and journal.share == 20 and gateway.weights == {SERVICE: 80, CANDIDATE: 20}

    def refuse(_: object) -> None:
        raise MistereError("the cluster does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(Route, "check", refuse)
        with pytest.raises(MistereError, match="does not answer"):
            release(second)
        assert stands()
        with pytest.raises(MistereError, match="does not answer"):
            hold(cluster, store, second, 30)
        assert stands()
    with pytest.raises(
        MistereError, match=r"as a canary, by a Gateway that .* do not name: `mistere rollback --unfinished`"
    ):
        release(second, CONFIG.model_copy(update={"gateway": GatewayConfig()}))
    assert stands()
    release(second)
    all_is_back(cluster, gateway, second)


@pytest.mark.long
def test_another_candidate_begins_without_a_share(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    """The same model with other settings must not get the share of the one that was tested."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    hold(cluster, store, second, 20)
    gateway.seen.clear()
    release(second, CONFIG.model_copy(update={"env": {"LEVEL": "1"}}))
    assert gateway.seen == [CHAMPION_ONLY, *shares(0, 10, 50, 100), CHAMPION_ONLY]
    all_is_back(cluster, gateway, second)


def test_a_share_that_cannot_be_recorded_is_taken_back(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    update = HeldJournal.update

    def fail(held: HeldJournal, **fields: Any) -> None:
        if fields.get("state") == "canary":
            raise MistereError("the store does not answer.")
        update(held, **fields)

    with monkeypatch.context() as patched:
        patched.setattr(HeldJournal, "update", fail)
        with pytest.raises(MistereError, match=r"gets 20 % of the requests, but this could not be recorded"):
            hold(cluster, store, second, 20)
    assert released.journal(store).unfinished
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    command.rollback(RegistryLocation(store, ""), "")  # of the first champion, which has no previous one
    all_is_back(cluster, gateway, first)
    assert released.journal(store).state == "done" and read_champion(store).digest == first.manifest.digest


def test_a_share_by_hand_can_be_taken_back(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    assert end_canary(store, "mistere", "why", "who") is None
    hold(cluster, store, second, 20)
    with pytest.raises(
        MistereError, match=r"gets 20 % of the requests of mistere as a canary: `mistere rollback --unfinished`"
    ):
        reject_candidate(store, second.manifest.digest, "1", "Bad.", "who")
    ended = end_canary(store, "mistere", "Too many complaints.", "who")
    assert ended is not None and ended.deployment.bundle_digest == second.manifest.digest
    all_is_back(cluster, gateway, first)
    last = read_log(store).events[-1]
    assert (last.action, last.outcome, last.reason) == ("canary", "undone", "Too many complaints.")
    assert read_champion(store).digest == first.manifest.digest and released.journal(store).state == "done"


def test_what_cannot_be_shared_by_hand_is_refused(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    with pytest.raises(UsageError, match=r"has no Gateway .*deployment\.gateway\.name"):
        hold(cluster, store, second, 10, CONFIG.model_copy(update={"gateway": GatewayConfig()}))
    with pytest.raises(UsageError, match="this one has all requests already"):
        hold(cluster, store, first, 10)
    cluster.behave(second, "crash")
    with pytest.raises(MistereError, match="CrashLoopBackOff"):
        hold(cluster, store, second, 10)
    all_is_back(cluster, gateway, first)
    assert released.journal(store).state == "done" and standing_canary(store, "mistere") is None


@pytest.mark.long
def test_the_commands_share_release_and_take_back(
    cluster: Cluster,
    gateway: Gateway,
    store: LocalStore,
    release: Release,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``mistere promote --canary``, ``mistere models``' notice, ``mistere rollback`` and ``mistere promote``, behind their options."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    digest = second.manifest.digest
    lineage = lineage_of(digest)
    monkeypatch.setattr(command, "mirror_champion", lambda _uri, _champion: None)
    location = RegistryLocation(store, "")

    def printed() -> str:
        return " ".join(capsys.readouterr().out.split())

    command.release_version(location, lineage, "promote", "why", canary=10)
    assert "Version 2 of mistere gets 10 % of the requests, the champion the rest." in printed()
    assert gateway.weights == {SERVICE: 90, CANDIDATE: 10}
    (stands,) = unfinished_releases(store)
    assert stands.by_hand and not stands.stands_long
    assert re.fullmatch(
        r"Version 2 has had 10 % of the requests of mistere for \d+ seconds?, as a canary by hand \(by .*\): `mistere promote mistere/2` "
        "releases it, `mistere rollback --unfinished` takes it back.",
        stands.sentence(),
    )
    command.rollback(location, "")
    assert "Version 2 was a canary and gets no requests of mistere any more; version 1 stays." in printed()
    all_is_back(cluster, gateway, first)
    command.release_version(location, lineage, "promote", "why", canary=10)
    gateway.seen.clear()
    command.release_version(location, lineage, "promote", "why")
    assert "Canary: 10 %: " in (text := printed()) and "is the champion and deployed instead of version 1." in text
    assert gateway.seen == [*shares(50, 100), CHAMPION_ONLY]
    all_is_back(cluster, gateway, second)
