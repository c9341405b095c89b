"""A release moves champion, deployment and aliases atomically, under concurrency and kills."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import ConflictError, LocalStore, ObjectStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.registry.release import journal
from mistere.registry.release import recovery as module
from mistere.registry.release.atomic_release import release
from mistere.registry.release.champion import CHAMPION_KEY, Champion, ChampionPointer, read_champion
from mistere.registry.release.journal import read_journal
from mistere.registry.release.promotion_log import PromotionEvent, read_log, who
from mistere.registry.release.recovery import Mirror as Mirrors
from mistere.registry.release.recovery import is_released, recover
from mistere.serving.deployment import Deployment, deployed_services, deployment_key, read_deployment
from pipelines.cli.commands.registry.models import models
from pipelines.cli.registry_location import RegistryLocation


def champion(name: str) -> Champion:
    return Champion(
        bundle_digest=name * 64,
        evaluation_digest="e" * 64,
        model_name="mistere",
        model_version=str(ord(name) - ord("a") + 1),
        run_id=f"run-{name}",
        moved_at=1.0,
    )


def deployment(store: ObjectStore, name: str, service: str = "mistere") -> Deployment:
    return Deployment(service=service, bundle_location=store.location(name), bundle_digest=name * 64, model_version="1")


class Mirror:
    """A fake registry that holds aliases; ``broken`` makes it unavailable."""

    def __init__(self) -> None:
        self.champion = ""
        self.previous = ""
        self.broken = False

    def __call__(self, new: Champion) -> None:
        if self.broken:
            raise MistereError("the MLflow server did not take it.")
        self.champion = new.model_version
        self.previous = new.previous.model_version if new.previous else ""


def promote(
    store: ObjectStore, mirror: Mirrors, name: str, seen: ChampionPointer | None = None, service: str = "mistere"
) -> None:
    release(
        store,
        mirror,
        seen or read_champion(store),
        champion(name),
        deployment(store, name, service),
        "promote",
        f"because of {name}",
        "somebody",
    )


def events(store: ObjectStore) -> list[PromotionEvent]:
    """The log, none of whose events is damaged."""
    log = read_log(store)
    assert not log.damaged
    return log.events


def state(store: ObjectStore) -> tuple[str, str]:
    """The first letters of the champion and deployment bundle digests."""
    try:
        deployed = read_deployment(store, "mistere").bundle_digest[0]
    except UsageError:
        deployed = "-"
    pointer = read_champion(store).champion
    return (pointer.bundle_digest[0] if pointer else "-", deployed)


def test_release_moves_champion_deployment_and_aliases_together(store: ObjectStore) -> None:
    mirror = Mirror()
    promote(store, mirror, "a")
    promote(store, mirror, "b")
    assert state(store) == ("b", "b") and (mirror.champion, mirror.previous) == ("2", "1")
    now = read_champion(store).champion
    assert now is not None and now.previous is not None and now.previous.run_id == "run-a"
    assert is_released(store, deployment(store, "b")) and not is_released(store, deployment(store, "a"))
    assert [(event.outcome, event.before[0], event.after[0]) for event in events(store)] == [
        ("done", "n", "a"),
        ("done", "a", "b"),
    ]
    assert events(store)[1].reason == "because of b" and events(store)[1].by == "somebody"


def test_releasing_the_champion_again_keeps_its_predecessor(store: ObjectStore) -> None:
    mirror = Mirror()
    for name in "abb":
        promote(store, mirror, name)
    assert mirror.previous == "1"


def test_unavailable_registry_reverts_the_release(store: ObjectStore) -> None:
    mirror = Mirror()
    mirror.broken = True
    with pytest.raises(MistereError, match="did not take it"):
        promote(store, mirror, "a")
    assert state(store) == ("-", "-")
    mirror.broken = False
    promote(store, mirror, "a")
    mirror.broken = True
    with pytest.raises(MistereError, match="did not take it"):
        promote(store, mirror, "b")
    assert state(store) == ("a", "a")
    mirror.broken = False
    promote(store, mirror, "b")
    assert state(store) == ("b", "b")
    log = events(store)
    assert [event.outcome for event in log] == ["undone", "done", "undone", "done"]
    assert "did not take it" in log[2].reason and log[3].reason == "because of b"


def test_one_of_two_concurrent_releases_wins_and_both_are_logged(store: ObjectStore) -> None:
    mirror = Mirror()
    promote(store, mirror, "a")
    seen = read_champion(store)
    failures: list[Exception] = []

    def go(name: str) -> None:
        try:
            promote(store, mirror, name, seen)
        except ConflictError as error:
            failures.append(error)

    threads = [threading.Thread(target=go, args=(name,)) for name in "bc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 1 and "run again" in str(failures[0])
    winner = state(store)
    assert winner in {("b", "b"), ("c", "c")}
    log = events(store)[1:]
    assert sorted(event.outcome for event in log) == ["done", "lost"]
    assert {event.after[0] for event in log} == {"b", "c"}
    assert next(event for event in log if event.outcome == "done").after[0] == winner[0]


def test_a_release_that_begins_after_the_look_is_not_taken_over(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for an unfinished release and the write of the journal, another process may have written its own."""
    mirror, real, others = Mirror(), module.recover, []
    promote(store, mirror, "a")

    def look(*arguments: Any) -> str:
        sentence = real(*arguments)
        if not others:
            record = read_journal(store, "mistere")
            assert record is not None
            other = record[0].model_copy(update={"state": "pending", "host": "elsewhere", "since": time.time()})
            others.append(journal.write_journal(store, other, record[1]))
        return sentence

    monkeypatch.setattr(module, "recover", look)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(ConflictError, match="in progress"):
        promote(store, mirror, "b")
    record = read_journal(store, "mistere")
    assert record is not None and record[1] == others[0] and state(store) == ("a", "a")
    assert events(store)[-1].outcome == "lost"


def test_recovery_ignores_a_release_in_progress(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror()
    promote(store, mirror, "a")
    record = read_journal(store, "mistere")
    assert record is not None
    open_again = record[0].model_copy(update={"state": "deployed", "host": "elsewhere", "since": time.time()})
    store.write("deployments/mistere/journal.json", open_again.sealed())
    with pytest.raises(ConflictError, match="in progress"):
        recover(store, mirror, "mistere")
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(ConflictError, match="in progress"):
        promote(store, mirror, "b")
    assert state(store) == ("a", "a") and events(store)[-1].outcome == "lost"
    monkeypatch.setattr(journal, "LEASE_SECONDS", -1.0)
    assert "completed" in recover(store, mirror, "mistere")


def test_a_journal_and_an_event_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    store, mirror = LocalStore(tmp_path), Mirror()
    promote(store, mirror, "a")
    record = read_journal(store, "mistere")
    assert record is not None
    left = record[0].model_copy(update={"state": "deployed", "since": 0.0, "event": None})
    store.write("deployments/mistere/journal.json", left.model_dump_json(exclude={"event", "checksum"}).encode())
    old = events(store)[0].model_copy(update={"at": 2.0})
    store.write("promotions/000000000002000-0f0f0f0f.json", old.model_dump_json(exclude={"checksum"}).encode())
    assert "completed" in recover(store, mirror, "mistere")
    assert [(event.action, event.outcome) for event in events(store)] == [
        ("promote", "done"),
        ("promote", "done"),
        ("recover", "done"),
    ]


def test_a_release_that_outlives_its_lease_reports_what_the_next_process_made_of_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror()
    promote(store, mirror, "a")

    def hang(_: Champion) -> None:
        monkeypatch.setattr(journal, "LEASE_SECONDS", -1.0)
        assert "completed" in recover(store, mirror, "mistere")
        raise MistereError("the MLflow server did not answer.")

    promote(store, hang, "b")
    assert state(store) == ("b", "b") and mirror.champion == "2"
    assert [event.outcome for event in events(store)] == ["done", "done"]
    assert events(store)[-1].reason.startswith("because of b The process was interrupted")


def test_a_late_call_of_a_replaced_release_does_not_keep_the_aliases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, mirror = LocalStore(tmp_path), Mirror()
    promote(store, mirror, "a")
    calls: list[Champion] = []

    def hang(new: Champion) -> None:
        calls.append(new)
        if len(calls) == 1:
            monkeypatch.setattr(journal, "LEASE_SECONDS", -1.0)
            promote(store, mirror, "c")
        mirror(new)

    with pytest.raises(ConflictError, match="another process took it over"):
        promote(store, hang, "b")
    assert state(store) == ("c", "c") and mirror.champion == "3"
    assert [(event.after[0], event.outcome) for event in events(store)] == [("a", "done"), ("b", "done"), ("c", "done")]


@pytest.mark.parametrize("before", ["a", ""])
@pytest.mark.parametrize("late", ["champion.json", "deployments/mistere/deployment.json"])
def test_a_write_that_arrives_after_the_release_was_rolled_back_is_undone(
    before: str, late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror()
    store = LocalStore(tmp_path)
    if before:
        promote(store, mirror, "a")

    class SlowStore(LocalStore):
        """One of its writes takes longer than the lease."""

        slow = True

        def write(self, key: str, data: bytes, expected: str | None = None) -> str:
            if key == late and self.slow:
                self.slow = False
                with monkeypatch.context() as expired:
                    expired.setattr(journal, "LEASE_SECONDS", -1.0)
                    assert "rolled back" in recover(store, mirror, "mistere")
            return super().write(key, data, expected)

    with pytest.raises(ConflictError, match="took longer than its lease"):
        promote(SlowStore(tmp_path), mirror, "b")
    assert state(store) == (before or "-", before or "-")
    assert [(event.after[0], event.outcome) for event in events(store)][-1] == ("b", "undone")
    promote(store, mirror, "c")
    assert state(store) == ("c", "c")


@pytest.mark.parametrize("before", ["a", ""])
@pytest.mark.parametrize("late", [CHAMPION_KEY, deployment_key("mistere")])
def test_a_killed_release_whose_write_arrives_after_the_rollback_moves_nothing(
    before: str, late: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is left to undo the write, so it must fail: a rollback changes the object that the write expects."""
    mirror = Mirror()
    if before:
        promote(store, mirror, before)
    sent: list[tuple[bytes, str | None]] = []
    write = store.write

    def killed(key: str, data: bytes, expected: str | None = None) -> str:
        if key == late and not sent:
            sent.append((data, expected))
            raise SystemExit
        if sent:
            raise SystemExit  # nothing of this process reaches the store any more
        return write(key, data, expected)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(store, "write", killed)
        promote(store, mirror, "b")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "LEASE_SECONDS", -1.0)
        assert "rolled back" in recover(store, mirror, "mistere")
    with pytest.raises(ConflictError):
        store.write(late, *sent[0])
    assert state(store) == (before or "-", before or "-")
    assert events(store)[-1].outcome == "undone"
    assert deployed_services(store) == (["mistere"] if before else [])
    promote(store, mirror, "c")
    assert state(store) == ("c", "c")


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_a_release_over_a_damaged_pointer_names_it(content: bytes, store: ObjectStore) -> None:
    store.write(deployment_key("mistere"), content)
    with pytest.raises(ArtifactError, match=r"deployment\.json is damaged"):
        promote(store, Mirror(), "a")
    assert read_champion(store).champion is None and not events(store)


def test_a_damaged_journal_is_named_and_kept(store: ObjectStore) -> None:
    promote(store, Mirror(), "a")
    key = "deployments/mistere/journal.json"
    data = store.read(key)[0].replace(b"pending", b"done").replace(b'"done"', b'"dons"')
    store.write(key, data)
    with pytest.raises(ArtifactError, match=r"journal .*journal\.json is damaged; restore it, or move it away"):
        promote(store, Mirror(), "b")
    assert store.read(key)[0] == data and state(store) == ("a", "a")
    store.delete_object(key)
    promote(store, Mirror(), "b")
    assert state(store) == ("b", "b")


def test_any_damaged_byte_of_a_record_is_detected(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    promote(store, Mirror(), "a")
    record = read_journal(store, "mistere")
    assert record is not None
    served = read_deployment(store, "mistere").relative_to(store)
    for sound in (events(store)[0], record[0], champion("a"), served):
        data = sound.sealed()
        kept = type(sound).unsealed(data)
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1
            assert type(sound).unsealed(bytes(damaged)) in (None, kept), bytes(damaged)


def test_the_log_names_a_damaged_event_and_lists_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path / "store")
    promote(store, Mirror(), "a")
    completed = set(store.versions("promotions"))
    promote(store, Mirror(), "b")
    assert completed < set(store.versions("promotions")), "a completed event never changes"
    key = events(store)[0].key
    store.write(key, store.read(key)[0].replace(b"somebody", b"somebode"))
    for as_json in (False, True):
        location = RegistryLocation(store, "sqlite:///unused.db")
        with pytest.raises(ArtifactError, match=rf"1 event of the promotion log .* damage \({store.location(key)}\)"):
            models(location, "mistere", log=True, as_json=as_json)
        shown = capsys.readouterr().out
        assert "because of b" in shown and "because of a" not in shown and "checksum" not in shown


def test_leftovers_of_killed_writers_are_swept_by_age(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    promote(store, Mirror(), "a")
    names = {}
    for folder in ("promotions", "deployments/mistere"):
        for age in (2, 0):
            left = tmp_path / folder / f".journal.json.{age}"
            left.write_bytes(b"{")
            os.utime(left, (time.time() - age * 86400, time.time() - age * 86400))
            names[left] = age
    promote(store, Mirror(), "b")
    assert {left for left in names if left.exists()} == {left for left, age in names.items() if age == 0}
    hidden = {path.name for path in tmp_path.rglob(".*") if path not in names}
    assert hidden == {".lock"}, "conditional writes of a log of any length leave one lock in a folder"


def test_actor_is_user_and_host_or_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTERE_ACTOR", raising=False)
    assert "@" in who()
    monkeypatch.setenv("MISTERE_ACTOR", "ci")
    assert who() == "ci"


def test_another_services_first_release_leaves_the_event_of_a_release_in_progress(tmp_path: Path) -> None:
    store, mirror = LocalStore(tmp_path), Mirror()
    other = deployment(store, "b").model_copy(update={"service": "other"})

    def roll_out(_: Callable[[], None]) -> Callable[[], None]:
        with pytest.raises(ConflictError):
            release(
                store,
                mirror,
                ChampionPointer(champion("c"), "an old version"),
                champion("b"),
                other,
                "promote",
                "",
                "b",
            )
        return lambda: None

    release(store, mirror, read_champion(store), champion("a"), deployment(store, "a"), "promote", "", "a", roll_out)
    assert [(event.by, event.outcome) for event in events(store)] == [("a", "done"), ("b", "lost")]
