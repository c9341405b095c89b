"""Training in several processes of this machine, through torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.core.errors import ExitCode, MistereError, UsageError
from components.core.places import PROJECT_ROOT
from components.core.progress import Progress
from components.finetune_encoder.batches import share_step
from components.finetune_encoder.checkpointing import PreemptedError
from components.finetune_encoder.training import Curve, TrainingJob, half_of, halved
from components.finetune_encoder.worker import CURVE, failure_file

_GRACE_SECONDS = 60


def train_in_processes(job: TrainingJob, scratch: Path, progress: Progress) -> Curve:
    """Train in ``job.config.processes`` processes; where a batch does not fit into one's memory, start them with half.

    Raises:
        PreemptedError: SIGTERM; it was handed on to the processes and their work so far is kept.
        MistereError: a process failed.
        UsageError: more processes than GPUs.
    """
    import torch

    processes = job.config.processes
    if job.config.device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise UsageError(
            f"{job.modality}.processes={processes}, but this machine has {torch.cuda.device_count()} GPUs: one process a GPU."
        )
    effective = job.config.batch_size * job.config.accumulation
    while True:
        share = share_step(effective, job.most, processes)
        folder = scratch / f"processes-{share.micro}"
        folder.mkdir()
        failures = _run(job, folder)
        if not failures:
            curve: Curve = json.loads((folder / CURVE).read_text(encoding="utf-8"))
            return curve
        if not any(failure.get("memory") for failure in failures):
            raise _error(failures)
        job = job.model_copy(update={"most": half_of(share.micro, job.modality)})
        progress.note(halved(share.micro, job.most, effective))


def _run(job: TrainingJob, folder: Path) -> list[dict[str, Any]]:
    """Run torchrun to its end; what its processes said of their failures, empty where there was none."""
    path = folder / "job.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.config.processes}"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    process = subprocess.Popen(
        [sys.executable, *launch, "-m", "components.finetune_encoder.worker", str(path)], env=environment
    )
    terminated = False

    def hand_on(_signal: int, _frame: Any) -> None:
        nonlocal terminated
        terminated = True
        process.send_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        if process.poll() is None:
            process.terminate()
            process.wait(_GRACE_SECONDS)
    files = [failure_file(path, rank) for rank in range(job.config.processes)]
    failures = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    if code and terminated and not failures:
        failures = [
            {"message": "stopped by SIGTERM: run again and it goes on from the last checkpoint.", "terminated": True}
        ]
    if code and not failures:
        failures = [{"message": f"a training process ended with exit code {code}; the log has its trace."}]
    if terminated:
        failures = [{**failure, "terminated": True} for failure in failures]
    return failures


def _error(failures: list[dict[str, Any]]) -> MistereError:
    first = failures[0]
    if first.get("terminated"):
        return PreemptedError(first["message"])
    if first.get("exit_code") == ExitCode.USAGE:
        return UsageError(first["message"])
    return MistereError(first["message"])
