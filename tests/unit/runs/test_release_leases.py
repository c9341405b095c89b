"""Whether the process of a release is gone: by the store's clock, and by process ids where they mean the same process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mistere.artifacts.object_store import ConflictError, LocalStore, ObjectStore
from mistere.artifacts.s3 import store as s3
from mistere.artifacts.s3.store import S3Store
from mistere.registry.release import journal as module
from mistere.registry.release.journal import LEASE_SECONDS, HeldJournal, Journal, is_alive, read_journal, this_process
from mistere.registry.release.recovery import open_release, recover
from mistere.registry.release.unfinished import recover_abandoned
from mistere.serving.deployment import journal_key
from tests.unit.runs.test_release import Mirror, events, promote, state

KEY = journal_key("mistere")
_NO_PROCESS = 2**22 + 1  # above the largest process id of Linux (PID_MAX_LIMIT, proc(5))
_ELSEWHERE = {"host": "elsewhere", "machine": "another boot pid:[4026531836]"}


def left_by(store: ObjectStore, service: str = "mistere", **holder: Any) -> Journal:
    """The journal of a release of b that is not finished, of another holder."""
    promote(store, Mirror(), "a", service=service)
    promote(store, Mirror(), "b", service=service)
    record = read_journal(store, service)
    assert record is not None
    left = record[0].model_copy(update={"state": "pending", **this_process(), **holder})
    store.write(journal_key(service), left.sealed())
    return left


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_store")


@pytest.mark.parametrize("ahead", [-7200.0, 7200.0])
def test_a_release_by_a_machine_with_another_time_is_in_progress(store: ObjectStore, ahead: float) -> None:
    """Its lease was renewed a moment ago, whatever its own clock says."""
    left = left_by(store, since=time.time() + ahead, **_ELSEWHERE)
    assert is_alive(store, left)
    with pytest.raises(ConflictError, match=r"in progress \(on elsewhere\).* its lease ends within 3 minutes"):
        recover(store, Mirror(), "mistere")


def test_this_machines_clock_has_no_part_in_it(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by(s3_store, **_ELSEWHERE)
    wrong = SimpleNamespace(time=lambda: time.time() + 86_400, monotonic=time.monotonic, sleep=time.sleep)
    for one in (module, s3):  # not that of the server, which is a thread of this process
        monkeypatch.setattr(one, "time", wrong)
    assert abs(s3_store.age(KEY)) < 60 and is_alive(s3_store, left)


@pytest.mark.parametrize(
    ("age", "alive"), [(0, True), (LEASE_SECONDS + 9, False), (-LEASE_SECONDS - 9, False), (1e9, False)]
)
def test_a_lease_that_is_old_or_from_the_future_has_expired(tmp_path: Path, age: float, alive: bool) -> None:
    """The clock of the store was set back: the lease must not hold until it has caught up."""
    store = LocalStore(tmp_path)
    left = left_by(store, **_ELSEWHERE)
    os.utime(tmp_path / KEY, (time.time() - age,) * 2)
    assert is_alive(store, left) is alive
    assert [path.name for path in (tmp_path / KEY).parent.iterdir() if path.name.startswith(".")] == [".lock"]


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    left_by(LocalStore(tmp_path))
    monkeypatch.setattr(Path, "touch", refuse)
    assert abs(LocalStore(tmp_path).age(KEY)) < 60


HOLDERS = {
    "this process": ({}, True),
    "a killed process of this machine": ({"process": _NO_PROCESS}, False),
    "a process of another machine of this name": ({"process": _NO_PROCESS, "machine": "another boot"}, True),
    "a process of a container of this name": ({"process": _NO_PROCESS, "machine": "pid:[4026532000]"}, True),
    "one that an earlier version wrote": ({"process": _NO_PROCESS, "machine": ""}, True),
    "one that has given up": ({"since": 0.0, **_ELSEWHERE}, False),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_process_is_gone_only_where_its_id_means_that_process(tmp_path: Path, holder: str) -> None:
    fields, alive = HOLDERS[holder]
    store = LocalStore(tmp_path)
    assert is_alive(store, left_by(store, **fields)) is alive


def test_a_process_of_another_user_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``/proc`` does not show it where it is mounted with ``hidepid``, and it takes no signal from here."""

    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    store = LocalStore(tmp_path)
    left = left_by(store, process=_NO_PROCESS)
    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(store, left)


def test_a_system_that_names_no_machine_waits_for_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "readlink", refuse)
    assert this_process()["machine"] == ""
    assert is_alive(LocalStore(tmp_path), left_by(LocalStore(tmp_path), process=_NO_PROCESS))


@pytest.fixture
def renewing(tmp_path: Path) -> Iterator[LocalStore]:
    """A store whose release of another machine renews its lease every 0.2 s."""
    store, over = LocalStore(tmp_path), threading.Event()
    left = left_by(store, **_ELSEWHERE)

    def renew() -> None:
        held = HeldJournal(store, left, store.read(KEY)[1])
        while not over.wait(0.2):
            held.update()

    thread = threading.Thread(target=renew)
    thread.start()
    yield store
    over.set()
    thread.join()


def test_a_release_that_renews_its_lease_is_left_alone(renewing: LocalStore) -> None:
    began = time.monotonic()
    assert recover_abandoned(renewing, Mirror(), "mistere") == ""
    assert time.monotonic() - began < 10 and state(renewing) == ("b", "b")
    record = read_journal(renewing, "mistere")
    assert record is not None and record[0].unfinished and record[0].host == "elsewhere"


def test_a_release_that_does_not_is_taken_back_once_its_lease_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    left_by(store, **_ELSEWHERE)
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)
    assert "rolled back" in recover_abandoned(store, Mirror(), "mistere")
    assert recover_abandoned(store, Mirror(), "mistere") == "" == recover_abandoned(store, Mirror(), "another")


def test_a_run_finds_its_own_release_beside_a_damaged_journal(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    left = left_by(store, since=0.0)
    assert left.event is not None
    store.write(journal_key("first"), b"{")
    assert open_release(store, "run-b") == "", "a person's release of the version of a run is none of the run"
    of_run = left.model_copy(update={"event": left.event.model_copy(update={"action": "deploy"})})
    store.write(KEY, of_run.sealed())
    assert open_release(store, "run-b") == "mistere" and open_release(store, "run-a") == ""
    assert len(events(store)) == 2
