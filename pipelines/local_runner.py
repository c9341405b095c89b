"""Runs the pipeline under kfp's local runner, in a separate process so that kfp's output goes to a separate log.

``python -m pipelines.local_runner ARGUMENTS.json ROOT``: the pipeline's arguments as JSON, and a directory for kfp.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO

from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.parent_death import die_with_parent
from mistere.common.processes.run_locks import hold_runner_lock, stage_environment
from mistere.common.progress import EVENTS_VARIABLE


def start(arguments: Path, root: Path, events: Path, log: Path, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start the pipeline.

    Args:
        arguments: JSON with the pipeline's arguments.
        root: directory for the artifacts that kfp passes between tasks.
        events: file that the stages append their progress to.
        log: file for the output of kfp and the stages.
        lock: the lock of the output directory, which the started process holds together with this one.
    """
    environment = child_environment(
        PYTHONUNBUFFERED="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        MLFLOW_DISABLE_TELEMETRY="true",
        GX_ANALYTICS_ENABLED="false",
        DVC_NO_ANALYTICS="1",
        TOKENIZERS_PARALLELISM="false",
    )
    environment |= {EVENTS_VARIABLE: str(events), **stage_environment(Path(lock.name).parent, arguments.parent)}
    with log.open("wb") as log_file:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.local_runner", str(arguments), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )


def main(arguments: Path, root: Path) -> None:
    """Run the pipeline. The outcome is recorded in the store; an exception here only leaves a traceback in the log."""
    die_with_parent()
    hold_runner_lock()
    from kfp import local

    from pipelines.retraining import retraining

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    retraining()(**json.loads(arguments.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
