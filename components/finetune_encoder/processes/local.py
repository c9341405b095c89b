"""Training in several processes of this machine, and the retry with halved batches for processes on any machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.finetune_encoder.processes.torchrun import Failure, run_torchrun
from components.finetune_encoder.processes.worker import CURVE
from components.finetune_encoder.training.job import Curve, PreemptedError, TrainingJob, half_of, halved, share_step
from mistere.common.errors import ExitCode, MistereError, UsageError
from mistere.common.parsing.documents import read_json
from mistere.common.progress import Progress


def train_in_processes(job: TrainingJob, scratch: Path, progress: Progress) -> Curve:
    """Train in ``job.config.processes`` processes.

    Raises:
        PreemptedError: SIGTERM; it was forwarded to the processes, and their checkpoints are kept.
        MistereError: a process failed.
        UsageError: more processes than GPUs.
    """
    import torch

    processes = job.config.processes
    if job.config.device != "cpu" and torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise UsageError(
            f"{job.modality}.processes={processes}, but this machine has {torch.cuda.device_count()} GPUs: use at most one process per GPU."
        )

    def attempt(job: TrainingJob) -> tuple[Curve, list[Failure]]:
        folder = scratch / f"processes-{job.micro_batch}"
        folder.mkdir()
        path = folder / "job.json"
        path.write_text(job.model_dump_json(), encoding="utf-8")
        failures = run_torchrun(path, ["--standalone", f"--nproc-per-node={processes}"])
        return ([] if failures else read_json(folder / CURVE)), failures

    return train_in_halves(job, processes, attempt, progress)


def train_in_halves(
    job: TrainingJob,
    processes: int,
    attempt: Callable[[TrainingJob], tuple[Curve, list[Failure]]],
    progress: Progress,
) -> Curve:
    """Train in several processes; if a batch does not fit into memory, restart all of them with half of it.

    Args:
        job: the training, with the number of utterances that a process may hold at once.
        processes: number of processes on all machines.
        attempt: runs the processes; returns the learning curve and the failures.
        progress: gets a note about each halving.

    Raises:
        PreemptedError: the processes were terminated.
        MistereError: a process failed, or not even one utterance fits.
    """
    effective = job.config.batch_size * job.config.accumulation
    while True:
        share = share_step(effective, job.micro_batch, processes)
        curve, failures = attempt(job)
        if not failures:
            return curve
        if not any(failure.get("memory") for failure in failures):
            raise _error(failures[0])
        job = job.model_copy(update={"micro_batch": half_of(share.micro, job.modality, job.kind.size_setting)})
        progress.note(halved(share.micro, job.micro_batch, effective))


def _error(failure: Failure) -> MistereError:
    if failure.get("terminated"):
        return PreemptedError(failure["message"])
    if failure.get("exit_code") == ExitCode.USAGE:
        return UsageError(failure["message"])
    return MistereError(failure["message"])
