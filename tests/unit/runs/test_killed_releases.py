"""A release that is killed between any two of its changes: everything moves or nothing does, and the log says which.

A change is a write to the store or a call of the registry. The table of kill points is the list of changes itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import MistereError
from mistere.registry.release import recovery as module
from mistere.registry.release.champion import Champion, read_champion
from mistere.registry.release.recovery import is_released, recover
from mistere.serving.deployment import read_deployment
from tests.stand_ins.dying_store import DyingStore, KilledError
from tests.unit.runs.test_release import Mirror, deployment, events, promote, state

ROOT = Path(__file__).resolve().parents[3]
_NO_PROCESS = 2**22 + 1  # above the largest process id of Linux (PID_MAX_LIMIT, proc(5))
CHANGES = 10
"""Changes of a release: journal, event, journal (deployed), deployment, champion, lease, aliases, lease, event, journal."""


@pytest.fixture(autouse=True)
def _dead_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that holds a journal is not this one, which simulates its death."""
    real = module.this_process
    monkeypatch.setattr(module, "this_process", lambda: {**real(), "process": _NO_PROCESS})


def _die(store: ObjectStore, mirror: Mirror, changes: int, act: Callable[[ObjectStore, module.Mirror], object]) -> bool:
    """Act until the process is killed instead of a change; returns whether it was killed."""
    dying = DyingStore(store, changes)
    try:
        act(dying, lambda new: dying.change(mirror, new))
    except KilledError:
        return True
    except MistereError:
        assert not dying.dead
    return False


def _fail(_: Champion) -> None:
    raise MistereError("the MLflow server did not take it.")


def _failing_release(store: ObjectStore, mirror: module.Mirror) -> None:
    """The release of b, whose registry fails, so that it is rolled back."""
    calls: list[Champion] = []

    def first_fails(new: Champion) -> None:
        calls.append(new)
        mirror(new) if len(calls) > 1 else _fail(new)

    promote(store, first_fails, "b")


def _check_log(store: ObjectStore, outcomes: set[str]) -> None:
    """The log never says less or more than the champion."""
    released = state(store)[0] == "b"
    about = [event for event in events(store) if event.after[0] == "b"]
    assert len(about) <= 1
    assert (
        [event.outcome for event in about] == ["done"] if released else {event.outcome for event in about} <= outcomes
    )


def _check_event(store: ObjectStore, outcomes: list[str]) -> None:
    assert [event.outcome for event in events(store) if event.after[0] == "b"] == outcomes


def _check_recovered(store: ObjectStore, mirror: Mirror) -> None:
    """Everything is b, or everything is a, and the next release finds nothing in its way."""
    assert recover(store, mirror, "mistere") == ""
    champion, deployed = state(store)
    assert champion == deployed and mirror.champion == {"a": "1", "b": "2"}[champion]
    _check_log(store, {"undone"})
    promote(store, mirror, "c")
    assert state(store) == ("c", "c")
    assert [event.outcome for event in events(store) if event.after[0] in "ac"] == ["done", "done"]


def _released_a(folder: Path) -> tuple[LocalStore, Mirror]:
    store, mirror = LocalStore(folder), Mirror()
    promote(store, mirror, "a")
    return store, mirror


def test_a_release_killed_at_any_change_is_completed_or_rolled_back(tmp_path: Path) -> None:
    after = []
    for changes in range(CHANGES + 1):
        store, mirror = _released_a(tmp_path / str(changes))
        assert _die(store, mirror, changes, lambda store, mirror: promote(store, mirror, "b")) == (changes < CHANGES)
        _check_log(store, {"pending"})
        recover(store, mirror, "mistere")
        after.append(state(store)[0])
        _check_recovered(store, mirror)
    assert "".join(after) == "aaaaabbbbbb"


def test_a_release_on_s3_killed_at_any_change_of_its_end_is_completed(s3_store: S3Store) -> None:
    mirror = Mirror()
    promote(s3_store, mirror, "a")
    assert _die(s3_store, mirror, CHANGES - 1, lambda store, mirror: promote(store, mirror, "b"))
    _check_log(s3_store, set())
    recover(s3_store, mirror, "mistere")
    assert state(s3_store)[0] == "b"
    _check_recovered(s3_store, mirror)


@pytest.mark.long
def test_a_release_on_s3_killed_at_any_change_is_completed_or_rolled_back(s3_store: S3Store, tmp_path: Path) -> None:
    for act in (lambda store, mirror: promote(store, mirror, "b"), _failing_release):
        for changes in range(16):
            store, mirror = S3Store(f"{s3_store.uri}/{act.__name__}-{changes}"), Mirror()
            promote(store, mirror, "a")
            _die(store, mirror, changes, act)
            _check_log(store, {"pending", "undone"})
            recover(store, mirror, "mistere")
            _check_recovered(store, mirror)


@pytest.mark.long
def test_a_failing_release_and_a_recovery_may_be_killed_as_well(tmp_path: Path) -> None:
    killed = 0
    for number, act in enumerate((lambda store, mirror: promote(store, mirror, "b"), _failing_release)):
        for changes in range(16):
            for changes_of_recovery in range(8):
                store, mirror = _released_a(tmp_path / f"{number}-{changes}-{changes_of_recovery}")
                killed += _die(store, mirror, changes, act)
                killed += _die(store, mirror, changes_of_recovery, partial(recover, service="mistere"))
                _check_log(store, {"pending", "undone"})
                recover(store, mirror, "mistere")
                _check_recovered(store, mirror)
    assert killed > 256


_CHILD = """
import os, signal, sys
from mistere.artifacts.object_store import open_store
from tests.stand_ins.dying_store import DyingStore
from tests.unit.runs.test_release import promote
dying = DyingStore(open_store(sys.argv[1]), int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))
promote(dying, lambda new: dying.change(lambda: None), "b")
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.server)])
def test_a_process_killed_at_any_change_is_completed_or_rolled_back(
    kind: str, s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the process that holds the journal is really gone
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, {"AWS_ENDPOINT_URL": s3_store.endpoint}.get(name, "us-east-1"))
    for changes in range(CHANGES):
        store = LocalStore(tmp_path / str(changes)) if kind == "folder" else S3Store(f"{s3_store.uri}/{changes}")
        mirror = Mirror()
        promote(store, mirror, "a")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = [sys.executable, "-c", _CHILD, store.uri, str(changes)]
        assert subprocess.run(child, env=environment, check=False).returncode == -9
        _check_log(store, {"pending"})
        recover(store, mirror, "mistere")
        assert (state(store)[0] == "b") == (changes >= 5)
        assert mirror.champion == ("2" if changes >= 5 else "1")
        _check_recovered(store, mirror)


def test_another_service_moves_the_champion_on_only_after_the_release_that_moved_it(tmp_path: Path) -> None:
    for changes in range(CHANGES):
        store, mirror = _released_a(tmp_path / str(changes))
        assert _die(store, mirror, changes, lambda store, mirror: promote(store, mirror, "b"))
        promote(store, mirror, "c", service="other")
        moved = changes >= 5
        if moved:
            _check_event(store, ["done"])
        recover(store, mirror, "mistere")
        assert state(store) == ("c", "b" if moved else "a") and mirror.champion == "3"
        _check_event(store, ["done"] if moved else ["undone"] if changes else [])


def test_a_moved_champions_event_is_completed_without_its_journal_before_another_service_releases(
    tmp_path: Path,
) -> None:
    store, mirror = _released_a(tmp_path)
    promote(store, mirror, "a", service="other")
    _die(store, mirror, 6, lambda store, mirror: promote(store, mirror, "b"))
    (tmp_path / "deployments" / "mistere" / "journal.json").unlink()
    promote(store, mirror, "c", service="other")
    promote(store, mirror, "d")
    assert [(event.after[0], event.outcome) for event in events(store)] == [(name, "done") for name in "aabcd"]


def test_a_copied_store_with_a_killed_release_serves_its_own_files(tmp_path: Path) -> None:
    store, mirror = _released_a(tmp_path / "output" / "store")
    assert _die(store, mirror, 6, lambda store, mirror: promote(store, mirror, "b"))
    shutil.copytree(tmp_path / "output", tmp_path / "copy")
    copy = LocalStore(tmp_path / "copy" / "store")
    assert "completed" in recover(copy, mirror, "mistere")
    assert read_deployment(copy, "mistere") == deployment(copy, "b") and is_released(copy, deployment(copy, "b"))


def test_a_damaged_journal_stops_its_own_service_only(tmp_path: Path) -> None:
    store, mirror = _released_a(tmp_path)
    _die(store, mirror, 4, lambda store, mirror: promote(store, mirror, "b"))
    journal = tmp_path / "deployments" / "mistere" / "journal.json"
    journal.write_bytes(journal.read_bytes().replace(b"deployed", b"deplayed"))
    promote(store, mirror, "c", service="other")
    assert [event.outcome for event in events(store)] == ["done", "pending", "done"]
    with pytest.raises(MistereError, match="is damaged"):
        promote(store, mirror, "d")


@pytest.mark.parametrize("moved", [True, False])
def test_an_event_whose_journal_was_moved_away_is_completed_by_the_champion(tmp_path: Path, moved: bool) -> None:
    store, mirror = _released_a(tmp_path)
    _die(store, mirror, 6 if moved else 4, lambda store, mirror: promote(store, mirror, "b"))
    (tmp_path / "deployments" / "mistere" / "journal.json").unlink()
    assert [event.outcome for event in events(store)] == ["done", "done" if moved else "pending"]
    promote(store, mirror, "c")
    assert [event.outcome for event in events(store)] == ["done", "done" if moved else "undone", "done"]
    assert read_champion(store).digest[0] == "c"
