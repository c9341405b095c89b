"""``python -m components.finetune_encoder.processes.worker JOB.json``: one of torchrun's processes.

The first process writes the learning curve to the job's folder. A process that fails writes ``failure-RANK.json`` for its parent.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from components.finetune_encoder.processes.usage import note_usage
from mistere.common.errors import ExitCode, MistereError
from mistere.common.processes.parent_death import die_with_parent
from mistere.common.processes.run_locks import end_with_runner
from mistere.common.processes.standard_streams import guard_streams
from mistere.engine.usage_meter import UsageMeter

CURVE = "curve.json"
FAILURE = "failure-{}.json"
"""File in the job's folder, by rank: how a process failed (:data:`components.finetune_encoder.processes.torchrun.Failure`)."""


def main(path: Path) -> None:
    """Train as one of several processes."""
    die_with_parent()
    end_with_runner()
    guard_streams()
    meter = UsageMeter(energy=False)
    import torch

    from components.finetune_encoder.training.job import PreemptedError, TrainingJob
    from components.finetune_encoder.training.trainer import train
    from mistere.artifacts.checkpoints import Checkpoints
    from mistere.artifacts.object_store import UnreachableError, open_store
    from mistere.engine.live_progress import StoredProgress

    rank = int(os.environ["RANK"])
    failure = path.with_name(FAILURE.format(rank))
    job = TrainingJob.model_validate_json(path.read_text(encoding="utf-8"))
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    try:
        store = open_store(job.store)
        progress = StoredProgress(job.task, store, job.run_id)
        with progress.storing() if rank == 0 else nullcontext():
            curve = train(job, Checkpoints(store, "finetune_encoder", job.key), progress)
        if rank == 0:
            path.with_name(CURVE).write_text(json.dumps(curve), encoding="utf-8")
    except torch.OutOfMemoryError:
        failure.write_text(json.dumps({"memory": True}), encoding="utf-8")
        sys.exit(ExitCode.ERROR)
    except MistereError as error:
        passing = isinstance(error, PreemptedError | UnreachableError)
        description = {"message": str(error), "exit_code": int(error.exit_code), "passing": passing}
        failure.write_text(json.dumps(description), encoding="utf-8")
        sys.exit(error.exit_code)
    finally:
        note_usage(path.parent, rank, meter)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
