"""Locks that keep one local run at work in an output directory, and end a run's stages with its runner.

The kernel releases a ``flock`` lock when the last process that holds it is gone, however it ended. Three files:

- ``OUTPUT/.lock``: held by ``mistere run`` and by the process that runs the pipeline: one run at a time.
- ``OUTPUT/.stages.lock``: shared by every process of a stage. A new run waits until nobody holds it.
- ``OUTPUT/runs/RUN/runner.lock``: held by the process that runs the pipeline. A stage waits for it in a thread: it can be
  acquired only when that process is gone, and the stage then ends itself.

A stage cannot rely on its parent process (:mod:`mistere.common.processes.parent_death`): that is a shell of kfp, which
outlives a killed runner.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from mistere.common.errors import MistereError

AFFECTS_RESULTS = False
"""How a process ends changes no result."""

RUNNER_LOCK_VARIABLE, STAGES_LOCK_VARIABLE = "MISTERE_RUNNER_LOCK", "MISTERE_STAGES_LOCK"
LOCK_FILES: Final = frozenset({".lock", ".stages.lock"})
"""In an output directory."""
_PATIENCE_SECONDS = 10.0
_kept: list[IO[str]] = []
"""Lock files that this process keeps open until it ends."""


@contextmanager
def only_run(output: Path) -> Iterator[IO[str]]:
    """Lock an output directory for one run, after the last process of an earlier run's stages is gone.

    Yields:
        The open lock file, for the process that runs the pipeline.

    Raises:
        MistereError: another run is in progress, or a stage of a killed run still works.
    """
    with (output / ".lock").open("w") as lock:
        if not _acquired(lock, fcntl.LOCK_EX):
            raise MistereError(f"another run is in progress in {output}: wait for it, or choose another --output.")
        with _stages_lock(output).open("w") as stages:
            _wait_for_stages(stages, output)
        yield lock


def stage_environment(output: Path, run_folder: Path) -> Mapping[str, str]:
    """Environment variables that tie the stages of a run to its runner."""
    return {
        RUNNER_LOCK_VARIABLE: str(run_folder / "runner.lock"),
        STAGES_LOCK_VARIABLE: str(_stages_lock(output)),
    }


def hold_runner_lock() -> None:
    """Hold the lock by which stages see that this process, which runs the pipeline, still exists."""
    lock = Path(os.environ[RUNNER_LOCK_VARIABLE]).open("w")  # noqa: SIM115  (open until this process ends)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _kept.append(lock)


def end_with_runner() -> None:
    """End this process of a stage as soon as the process that runs the pipeline is gone.

    Nothing happens in a process that ``mistere run`` did not start, for example on a cluster.
    """
    names = os.environ.get(STAGES_LOCK_VARIABLE), os.environ.get(RUNNER_LOCK_VARIABLE)
    if _kept or not all(names):
        return
    stages, runner = (open(name or "", "a", encoding="ascii") for name in names)  # noqa: SIM115  (open until it ends)
    fcntl.flock(stages, fcntl.LOCK_SH)  # before the runner is checked: a later run then waits for this process
    _kept.extend((stages, runner))
    if _acquired(runner, fcntl.LOCK_SH):
        _end()
    threading.Thread(target=_end_after, args=(runner,), name="runner-lock", daemon=True).start()


def _end_after(runner: IO[str]) -> None:
    fcntl.flock(runner, fcntl.LOCK_SH)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # nothing is recorded: the run that this stage belongs to is over


def _wait_for_stages(stages: IO[str], output: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _acquired(stages, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            processes = " ".join(map(str, _holders(stages)))
            raise MistereError(
                f"a stage of a killed run still works in {output}{f' (process {processes})' if processes else ''}: wait until "
                f"it has ended, end it{f' with kill -9 {processes}' if processes else ''}, or choose another --output."
            )
        time.sleep(0.05)


def _acquired(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(lock: IO[str]) -> list[int]:
    """Processes that hold a lock, from Linux's list of locks; empty where there is none."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    inode = f":{os.fstat(lock.fileno()).st_ino}"
    fields = (line.split() for line in lines)
    return sorted({int(field[4]) for field in fields if field[1] == "FLOCK" and field[5].endswith(inode)})


def _stages_lock(output: Path) -> Path:
    return output / ".stages.lock"
