"""The progress of a running step in the store."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from components.resolve_inputs.run import STAGE
from mistere.artifacts.object_store import LocalStore, UnreachableError
from mistere.artifacts.s3.store import S3Store
from mistere.common.progress import EVENTS_VARIABLE, Progress
from mistere.engine.execution import execute
from mistere.engine.live_progress import LiveProgress, ProgressReader, StoredProgress, progress_key
from pipelines.cli.commands.train import _EpochStatus
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
    random = {"speech": {"source": "random:whisper"}, "text": {"source": "random:bidirectional_text"}}
    execute(STAGE, context, {"given": random})
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


def test_plain_progress_is_rare_and_says_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(EVENTS_VARIABLE)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("train_moe")
    for epoch in range(11, 101):  # resumed at epoch 11; an epoch takes 4 s
        progress(f"epoch {epoch}/100", epoch, 100)
        now += 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 89 // 4 + 1
    assert "message=epoch 11/100 done" in lines[0]
    assert "message=epoch 15/100, at most 6 min left" in lines[1]  # 85 epochs of 4 s
    assert "message=epoch 99/100, at most 4 s left" in lines[-2] and "epoch 100/100" in lines[-1]


def test_train_command_prints_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=120)
    on_epoch = _EpochStatus(console)("mixture, seed 7", 1000)
    for epoch in range(1, 101):
        now += 1
        on_epoch(epoch, {"dev_weighted_f1": 0.5})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 7 and lines[0] == "training mixture, seed 7"
    assert lines[1] == "mixture, seed 7: epoch 15 of 1000, dev weighted F1 0.500, at most 16 min left"
