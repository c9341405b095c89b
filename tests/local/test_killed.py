"""SIGKILL in each stage: the same command resumes from the finished steps and gives the same model.

Where only the command or the runner is killed, the stages end themselves before the next run starts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.registry.release.champion import read_champion
from mistere.runs.tasks import ordered_tasks
from tests.local.workshop import Run, has_started, make_dataset, run, start_run

pytestmark = pytest.mark.long

TASKS = tuple(ordered_tasks([]))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Run:
    return run(tmp_path_factory.mktemp("uninterrupted"), data)


def kill_in(task: str, output: Path, data: Path, kill: Callable[[int], None] | None = None) -> None:
    """Start a run and send SIGKILL to all its processes, or those that ``kill`` chooses, while ``task`` runs."""
    earlier_runs = set((output / "runs").glob("*")) if (output / "runs").is_dir() else set()
    process = start_run(output, data, subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not has_started(task, output, earlier_runs):
            assert process.poll() is None and time.monotonic() < deadline, f"{task} did not start"
            time.sleep(0.02)
        time.sleep(0.3)
        if kill is not None:
            kill(process.pid)
            process.wait()
    finally:
        if process.poll() is None:
            _kill_tree(process.pid)
            process.wait()


def _kill_tree(pid: int) -> None:
    """Kill a process and its descendants, including those in other sessions."""
    descendants = _children(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for child in descendants:
        _kill_tree(child)


def _children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.is_file() else []


def _kill_command(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _kill_runner(pid: int) -> None:
    (runner,) = _children(pid)
    os.kill(runner, signal.SIGKILL)


@pytest.mark.parametrize("kill", [_kill_command, _kill_runner])
def test_the_stages_of_a_killed_runner_end_and_record_nothing(
    kill: Callable[[int], None], uninterrupted: Run, tmp_path: Path, data: Path
) -> None:
    kill_in("finetune_encoder-text", tmp_path, data, kill)
    resumed = run(tmp_path, data)
    assert resumed.code == 0, resumed.text
    killed = min((tmp_path / "store" / "runs").iterdir())
    records = [json.loads(path.read_text()) for path in (killed / "stages").glob("*.json")]
    assert records and "failed" not in {record["status"] for record in records}
    champion = read_champion(LocalStore(tmp_path / "store")).digest
    assert champion == read_champion(LocalStore(uninterrupted.output / "store")).digest


@pytest.mark.parametrize("task", TASKS)
def test_a_run_killed_in_any_stage_is_resumed(task: str, uninterrupted: Run, tmp_path: Path, data: Path) -> None:
    kill_in(task, tmp_path, data)
    resumed = run(tmp_path, data)
    assert resumed.code == 0, resumed.text
    finished_before = TASKS[: TASKS.index(task)]
    uncached = {"resolve_inputs", "register_model", "deploy_model", "report_run"}
    branches = {
        name for name in TASKS if name.startswith(("finetune", "embed", "extract"))
    }  # the runner decides their order
    assert not (resumed.ran & set(finished_before)) - uncached - branches
    champion = read_champion(LocalStore(tmp_path / "store")).digest
    assert champion == read_champion(LocalStore(uninterrupted.output / "store")).digest
    assert not list((tmp_path / "store" / "scratch").glob("*")), "the scratch folders of killed stages are deleted"
