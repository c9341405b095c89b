"""The stages of a killed runner end themselves, and no run starts beside them: real processes, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mistere.common.errors import MistereError
from mistere.common.processes import run_locks
from mistere.common.processes.run_locks import only_run, stage_environment

ROOT = Path(__file__).resolve().parents[3]
_RUNNER = """
import subprocess, sys
from mistere.common.processes.run_locks import hold_runner_lock
hold_runner_lock()
subprocess.run(["sh", "-c", '"$0" -c "$1"; true', sys.executable, sys.argv[1]])  # like kfp: a shell between them
"""
_STAGE = """
import os, time
from pathlib import Path
from mistere.common.processes.run_locks import end_with_runner
end_with_runner()
Path("stage.new").write_text(str(os.getpid()))
Path("stage.new").rename("stage")
while True:
    time.sleep(0.01)
"""


def _start(output: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a runner with a stage; returns the runner and the stage's process id."""
    run_folder = output / "runs" / "a"
    run_folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **stage_environment(output, run_folder)}
    runner = subprocess.Popen([sys.executable, "-c", _RUNNER, _STAGE], cwd=output, env=environment)
    _wait_until(lambda: (output / "stage").is_file())
    return runner, int((output / "stage").read_text())


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _stopped(process: int) -> bool:
    """Whether all threads of a process have stopped."""
    states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{process}/task").glob("*/stat")]
    return set(states) == {"T"}


def test_a_stage_ends_with_a_killed_runner_and_the_next_run_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, stage = _start(tmp_path)
    try:
        os.kill(stage, signal.SIGSTOP)  # it cannot react, like one that waits for a disk
        _wait_until(lambda: _stopped(stage))  # on a busy machine its thread may still run for a while
        runner.kill()
        runner.wait()
        monkeypatch.setattr(run_locks, "_PATIENCE_SECONDS", 0.1)
        refusal = rf"still works in .*\(process {stage}\).*kill -9 {stage}, or choose another --output"
        with pytest.raises(MistereError, match=refusal), only_run(tmp_path):
            pass
        monkeypatch.setattr(run_locks, "_PATIENCE_SECONDS", 30.0)
        os.kill(stage, signal.SIGCONT)
        with only_run(tmp_path):
            _wait_until(lambda: not Path(f"/proc/{stage}").exists())
    finally:
        if Path(f"/proc/{stage}").exists():
            os.kill(stage, signal.SIGKILL)


def test_a_stage_that_starts_after_its_runner_was_killed_does_no_work(tmp_path: Path) -> None:
    run_folder = tmp_path / "runs" / "a"
    run_folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **stage_environment(tmp_path, run_folder)}
    late = subprocess.run([sys.executable, "-c", _STAGE], cwd=tmp_path, env=environment, timeout=30, check=False)
    assert late.returncode == -signal.SIGKILL and not (tmp_path / "stage").exists()
