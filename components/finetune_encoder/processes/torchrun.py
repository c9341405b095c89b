"""Runs torchrun on this machine and collects the failures of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.finetune_encoder.processes.usage import processes_usage
from components.finetune_encoder.processes.worker import FAILURE
from mistere.artifacts.usage import FURTHER
from mistere.common.parsing.documents import read_json
from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.parent_death import die_with_parent

Failure = dict[str, Any]
"""How a process failed.

``memory``: a batch did not fit; otherwise ``message`` and ``exit_code``. ``terminated``: SIGTERM. ``passing``: a retry may
succeed.
"""

_GRACE_SECONDS = 60
_SHUTDOWN_SECONDS = 100
"""Time that torchrun gives its processes after SIGTERM to write a checkpoint, instead of 30 seconds: less than the grace period of
a TrainJob's pod."""


def run_torchrun(job: Path, options: Sequence[str]) -> list[Failure]:
    """Run :mod:`components.finetune_encoder.processes.worker` under torchrun and forward SIGTERM to it.

    Args:
        job: the file with the job; the curve and the failures are written to its folder.
        options: torchrun's options; it also reads ``PET_…`` variables.

    Returns:
        The failures of the processes.
    """
    environment = child_environment(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
    command = [sys.executable, "-m", "torch.distributed.run", f"--shutdown-timeout={_SHUTDOWN_SECONDS}", *options]
    process = subprocess.Popen(
        [*command, "-m", "components.finetune_encoder.processes.worker", str(job)],
        env=environment,
        preexec_fn=die_with_parent,
    )
    terminated = False

    def forward(_signal: int, _frame: Any) -> None:
        nonlocal terminated
        terminated = True
        process.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        if process.poll() is None:
            process.terminate()
            process.wait(_GRACE_SECONDS)
    FURTHER.add(processes_usage(job.parent))
    files = sorted(job.parent.glob(FAILURE.format("*")))
    failures: list[Failure] = [read_json(file) for file in files]
    if code and not failures:
        message = (
            "stopped by SIGTERM: run again to resume from the last checkpoint."
            if terminated
            else f"a training process ended with exit code {code}; the log has its trace."
        )
        failures = [{"message": message, "passing": True}]
    if terminated:
        failures = [{**failure, "terminated": True} for failure in failures]
    return failures
