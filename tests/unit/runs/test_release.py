"""A release moves champion, deployment and aliases atomically, under concurrency and kills."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mistere.artifacts.object_store import ConflictError, LocalStore, ObjectStore
from mistere.common.errors import MistereError, UsageError
from mistere.registry.champion import Champion, ChampionPointer, read_champion
from mistere.registry.promotion_log import read_log, who
from mistere.registry.release import Journal, is_released, recover, release
from mistere.serving.deployment import Deployment, read_deployment

ROOT = Path(__file__).resolve().parents[3]


def champion(name: str) -> Champion:
    return Champion(
        bundle_digest=name * 64,
        evaluation_digest="e" * 64,
        model_name="mistere",
        model_version=str(ord(name) - ord("a") + 1),
        run_id=f"run-{name}",
        moved_at=1.0,
    )


def deployment(store: ObjectStore, name: str) -> Deployment:
    return Deployment(
        service="mistere", bundle_location=store.location(name), bundle_digest=name * 64, model_version="1"
    )


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


def promote(store: ObjectStore, mirror: Mirror, name: str, seen: ChampionPointer | None = None) -> None:
    release(
        store,
        mirror,
        seen or read_champion(store),
        champion(name),
        deployment(store, name),
        "promote",
        f"because of {name}",
        "somebody",
    )


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
    assert [(event.outcome, event.before[0], event.after[0]) for event in read_log(store)] == [
        ("done", "n", "a"),
        ("done", "a", "b"),
    ]
    assert read_log(store)[1].reason == "because of b" and read_log(store)[1].by == "somebody"


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
    log = read_log(store)
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
    log = read_log(store)[1:]
    assert sorted(event.outcome for event in log) == ["done", "lost"]
    assert {event.after[0] for event in log} == {"b", "c"}
    assert next(event for event in log if event.outcome == "done").after[0] == winner[0]


_KILLED = """
import os, sys
from pathlib import Path
from mistere.registry import release as module
from mistere.artifacts.object_store import LocalStore
from tests.unit.runs.test_release import Mirror, promote
point = sys.argv[2]
def die(*arguments):
    os._exit(9)
store = LocalStore(Path(sys.argv[1]))
mirror = Mirror()
if point == "before the deployment":
    real = module.read_champion
    module.read_champion = lambda store: die() if os.environ.get("ARMED") else real(store)
    os.environ["ARMED"] = "1"
    seen = real(store)
    promote(store, mirror, "b", seen)
elif point == "before the champion":
    module.move_champion = die
elif point == "before the aliases":
    mirror = die
elif point == "before the journal is closed":
    module.append = die
    real_write = module._write
    module._write = lambda store, journal, expected: die() if journal.state == "done" else real_write(store, journal, expected)
promote(store, mirror, "b")
"""


@pytest.mark.parametrize(
    ("point", "after"),
    [
        ("before the deployment", ("a", "a")),
        ("before the champion", ("a", "a")),
        ("before the aliases", ("b", "b")),
        ("before the journal is closed", ("b", "b")),
    ],
)
def test_next_process_completes_or_reverts_a_killed_release(tmp_path: Path, point: str, after: tuple[str, str]) -> None:
    store, mirror = LocalStore(tmp_path), Mirror()
    promote(store, mirror, "a")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), point], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    message = recover(store, mirror, "mistere")
    assert ("completed" in message) == (after == ("b", "b"))
    assert state(store) == after
    assert mirror.champion == ("2" if after == ("b", "b") else "1")
    assert read_log(store)[-1].action == "recover"
    assert recover(store, mirror, "mistere") == ""
    promote(store, mirror, "c")
    assert state(store) == ("c", "c")


def test_recovery_ignores_a_release_in_progress(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import mistere.registry.release as module

    mirror = Mirror()
    promote(store, mirror, "a")
    journal = Journal.model_validate_json(store.read("deployments/mistere/journal.json")[0])
    store.write(
        "deployments/mistere/journal.json",
        journal.model_copy(update={"state": "deployed", "host": "elsewhere", "since": module.time.time()})
        .model_dump_json()
        .encode(),
    )
    with pytest.raises(ConflictError, match="in progress"):
        recover(store, mirror, "mistere")
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.3)
    with pytest.raises(ConflictError, match="in progress"):
        promote(store, mirror, "b")
    assert state(store) == ("a", "a") and read_log(store)[-1].outcome == "lost"
    monkeypatch.setattr(module, "_LEASE_SECONDS", -1.0)
    assert "completed" in recover(store, mirror, "mistere")


def test_damaged_journal_does_not_block_a_release(store: ObjectStore) -> None:
    store.write("deployments/mistere/journal.json", b"{")
    promote(store, Mirror(), "a")
    assert state(store) == ("a", "a")


def test_promotion_log_is_append_only_and_skips_damaged_entries(store: ObjectStore) -> None:
    promote(store, Mirror(), "a")
    before = list(store.versions("promotions"))
    promote(store, Mirror(), "b")
    assert set(before) < set(store.versions("promotions"))
    store.write("promotions/000000000000001-dead.json", b"{")
    assert len(read_log(store)) == 2


def test_actor_is_user_and_host_or_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTERE_ACTOR", raising=False)
    assert "@" in who()
    monkeypatch.setenv("MISTERE_ACTOR", "ci")
    assert who() == "ci"
