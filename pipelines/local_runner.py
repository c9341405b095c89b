"""Runs a pipeline under kfp's local runner, in a separate process so that kfp's output goes to a separate log.

``python -m pipelines.local_runner ARGUMENTS.json ROOT [PIPELINE]``: the pipeline's arguments as JSON, a directory for kfp, and which
pipeline (``retraining``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO

from mistere.common.parsing.documents import read_json
from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.parent_death import die_with_parent
from mistere.common.processes.run_locks import hold_runner_lock, stage_environment
from mistere.common.processes.standard_streams import copy_redacted
from mistere.common.progress import EVENTS_VARIABLE
from mistere.common.secrets.private_files import OWNER_ONLY, open_private

_REST_SECONDS = 5.0


@dataclass(frozen=True)
class LocalPipeline:
    """The pipeline in its process.

    Attributes:
        process: the process.
        log: the thread that copies its output to the log.
    """

    process: subprocess.Popen[bytes]
    log: Thread

    def kill(self) -> None:
        """Kill the process and its stages."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def complete_log(self) -> None:
        """Wait until the log holds all output; a process that outlives the pipeline delays nothing for long."""
        self.log.join(_REST_SECONDS)


def start(arguments: Path, root: Path, events: Path, log: Path, lock: IO[str]) -> LocalPipeline:
    """Start the pipeline.

    Args:
        arguments: JSON with the pipeline's arguments.
        root: directory for the artifacts that kfp passes between tasks.
        events: file that the stages append their progress to.
        log: file for the output of kfp and the stages, without secrets.
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
    events.touch(OWNER_ONLY)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.local_runner", str(arguments), str(root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        pass_fds=(lock.fileno(),),
    )
    assert process.stdout is not None
    return LocalPipeline(process, copy_redacted(process.stdout, open_private(log)))


def main(arguments: Path, root: Path, pipeline: str = "retraining") -> None:
    """Run a pipeline. The outcome is recorded in the store; an exception here only leaves a traceback in the log."""
    die_with_parent()
    hold_runner_lock()
    from kfp import local

    from pipelines.catalogue import find_pipeline

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    given = read_json(arguments)
    find_pipeline(pipeline).define_local(given)(**given)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
