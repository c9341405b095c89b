"""The progress of a running step in the store."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from components.resolve_inputs.run import STAGE
from mistere.artifacts.object_store import LocalStore, UnreachableError
from mistere.artifacts.s3.store import S3Store
from mistere.common.progress import EVENTS_VARIABLE
from mistere.engine.execution import execute
from mistere.engine.live_progress import LiveProgress, ProgressReader, StoredProgress, progress_key
from tests.unit.conftest import s3_endpoint, s3_store

__all__ = ["s3_endpoint", "s3_store"]
KEY = progress_key("run-1", "train_moe")


@pytest.fixture(autouse=True)
def _events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))


def wait_for(reader: ProgressReader) -> LiveProgress:
    deadline = time.monotonic() + 60
    while not (changed := reader.changed()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return changed[-1]


def test_progress_is_stored_at_the_start_and_while_the_step_runs(s3_store: S3Store) -> None:
    progress, reader = StoredProgress("train_moe", s3_store, "run-1", seconds=0.01), ProgressReader(s3_store, "run-1")
    assert reader.changed() == []
    with progress.storing():
        first = wait_for(reader)
        assert (first.task, first.message, first.done, first.total) == ("train_moe", "", 0, 0)
        for step in range(50):  # most are too fast to be written
            progress("epoch 1/2", step, 100)
        latest = wait_for(reader)
        while latest.done != 49:
            latest = wait_for(reader)
        assert (latest.message, latest.total, latest.started) == ("epoch 1/2", 100, first.started)
        assert latest.updated >= first.updated
        progress.note("waits for a machine.")
        while wait_for(reader).message != "waits for a machine.":
            """A version that was listed may have been replaced when it is read, so a content can come twice."""
    reader.changed()
    assert reader.changed() == []


def test_a_stage_stores_its_progress(s3_store: S3Store) -> None:
    context = {"run_id": "run-1", "store": s3_store.uri, "tracking_uri": "none", "data_digest": "d.dir"}
    execute(STAGE, context, {})
    assert wait_for(ProgressReader(s3_store, "run-1")).task == "resolve_inputs"


def test_progress_is_written_seldom(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(S3Store, "write", lambda _store, key, _data: written.append(key))
    progress = StoredProgress("train_moe", s3_store, "run-1", seconds=60)
    with progress.storing():
        while not written:
            time.sleep(0.01)
        for step in range(1000):
            progress("epoch 1/2", step, 1000)
    assert written == [KEY]


def test_a_store_that_does_not_answer_delays_no_step(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    called, released = threading.Event(), threading.Event()

    def hang(*_: object) -> str:
        called.set()
        released.wait(60)
        raise UnreachableError("the object store does not answer.")

    monkeypatch.setattr(S3Store, "write", hang)
    progress = StoredProgress("train_moe", s3_store, "run-1", seconds=0.01)
    with progress.storing():
        assert called.wait(60)
        progress("epoch 1/2", 1, 2)
    released.set()


def test_a_local_run_stores_no_progress(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    others = set(threading.enumerate())  # of tests before
    with StoredProgress("train_moe", store, "run-1", seconds=0.01).storing():
        assert not any(thread.name == "progress" for thread in set(threading.enumerate()) - others)
    assert list(store.keys("runs")) == []


def test_damaged_progress_is_skipped(s3_store: S3Store) -> None:
    s3_store.write(KEY, b"{half")
    assert ProgressReader(s3_store, "run-1").changed() == []
