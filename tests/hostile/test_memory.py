"""A memory limit: the kernel kills a stage, the run names memory as the likely cause, and the next run goes on from there."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.local.workshop import Run, has_started, make_dataset, run, start_run

pytestmark = pytest.mark.long
LIMITED = (
    "validate_data",
    "finetune_encoder-text",
    "embed_shard-text",
    "train_moe",
    "evaluate_model",
    "register_model",
    "deploy_model",
)
"""Stages that are killed, in the order in which they run."""
LIMIT_MB = 20


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A group of processes that may allocate 20 MiB more than they have when they enter it (cgroup v1)."""
    group = Path("/sys/fs/cgroup/memory") / f"mistere-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup with a limit of memory can be made here: {error}")
    (group / "memory.limit_in_bytes").write_text(str(LIMIT_MB << 20))
    yield group
    deadline = time.monotonic() + 30
    while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    group.rmdir()


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):  # kfp starts stages in threads
        with suppress(OSError):  # the thread has ended
            for child in map(int, children.read_text().split()):
                yield child
                yield from _descendants(child)


def _stage_process(runner: int) -> int:
    """The process of the stage that started last."""
    stages = [
        pid for pid in _descendants(runner) if b"kfp.dsl.executor_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return max(stages)


def _run_limited(task: str, output: Path, data: Path, cgroup: Path) -> Run:
    """A run whose stage ``task`` gets the limit when it starts."""
    earlier = set((output / "runs").glob("*"))
    process = start_run(output, data, subprocess.PIPE)
    deadline = time.monotonic() + 400
    while not has_started(task, output, earlier):
        assert process.poll() is None and time.monotonic() < deadline, f"{task} did not start"
        time.sleep(0.01)
    (cgroup / "cgroup.procs").write_text(str(_stage_process(process.pid)))
    text = process.communicate(timeout=400)[0]
    return Run(process.returncode, text, output)


def test_a_stage_that_the_kernel_kills_for_its_memory_is_named(tmp_path: Path, cgroup: Path) -> None:
    data, output = make_dataset(tmp_path / "tones"), tmp_path / "output"
    for task in LIMITED:
        killed = _run_limited(task, output, data, cgroup)
        kills = int((cgroup / "memory.oom_control").read_text().rsplit("oom_kill ", 1)[1])
        assert kills == LIMITED.index(task) + 1, f"{task} was not killed: {killed.text}"
        assert killed.code == 1 and "Traceback" not in killed.text, killed.text
        assert f"{task} has no record of its end" in killed.text, killed.text
        assert "its process was killed, most likely because memory ran out" in killed.text, killed.text
        assert (killed.folder / "reports" / "run_report.html").is_file()
    completed = run(output, data)
    assert completed.code == 0, completed.text
    assert completed.stages["train_moe"]["status"] == "reused"
