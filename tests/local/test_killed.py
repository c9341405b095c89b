"""Kill -9 in every stage in turn; the same command goes on from what had finished and ends with the same model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.registry.champion import read_champion
from mistere.runs.outcome import TASKS
from tests.local.workshop import ROOT, Run, make_dataset, run

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    return run(tmp_path_factory.mktemp("unharmed"), data)


def kill_in(task: str, output: Path, data: Path) -> None:
    """Start a run and kill everything of it, with no warning, while ``task`` is at work."""
    known = set((output / "runs").glob("*")) if (output / "runs").is_dir() else set()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mistere",
            "run",
            "--profile",
            "tiny",
            "--data",
            str(data),
            "--output",
            str(output),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not _is_at_work(task, output, known):
            assert process.poll() is None and time.monotonic() < deadline, f"{task} was never reached"
            time.sleep(0.02)
        time.sleep(0.3)
    finally:
        _kill_tree(process.pid)
        process.wait()


def _is_at_work(task: str, output: Path, known: set[Path]) -> bool:
    for folder in set((output / "runs").glob("*")) - known:
        events = folder / "events.jsonl"
        lines = events.read_text().splitlines() if events.is_file() else []
        for line in lines:
            event = json.loads(line)
            if event["task"] == task and event["event"] == "started":
                return True
    return False


def _kill_tree(pid: int) -> None:
    """Kill a process and all that descend from it, also those in sessions of their own."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(child) for child in children.read_text().split()] if children.is_file() else []
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for child in below:
        _kill_tree(child)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_killed_in_any_stage_goes_on(task: str, unharmed: Run, tmp_path: Path, data: Path) -> None:
    kill_in(task, tmp_path, data)
    again = run(tmp_path, data)
    assert again.code == 0, again.text
    finished_before = TASKS[: TASKS.index(task)]
    outside = {"resolve_inputs", "register_model", "deploy_model", "report_run"}
    branches = {
        name for name in TASKS if name.startswith(("finetune", "embed", "extract"))
    }  # their order is the runner's own
    assert not (again.ran & set(finished_before)) - outside - branches
    ours = read_champion(LocalStore(tmp_path / "store")).digest
    assert ours == read_champion(LocalStore(unharmed.output / "store")).digest
    assert not list((tmp_path / "store" / "scratch").glob("*")), "what a killed stage left half-made is swept away"
