"""The pipeline under kfp's local runner, in a process of its own so that kfp's output has a log of its own.

``python -m pipelines.local_runner ARGUMENTS.json ROOT``: the pipeline's arguments as JSON, and a folder for kfp.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mistere.common.parent_death import die_with_parent
from mistere.common.paths import PROJECT_ROOT
from mistere.common.progress import EVENTS_VARIABLE


def start(arguments: Path, root: Path, events: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start the pipeline.

    Args:
        arguments: JSON with the pipeline's arguments.
        root: where kfp keeps what passes between tasks.
        events: where the stages write their progress.
        log: takes everything that kfp and the stages print.
    """
    environment = {
        **os.environ,
        EVENTS_VARIABLE: str(events),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.local_runner", str(arguments), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def main(arguments: Path, root: Path) -> None:
    """Run the pipeline; its outcome is in the store, so a failure here is only a trace in the log."""
    die_with_parent()
    from kfp import local

    from pipelines.retraining import retraining

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    retraining()(**json.loads(arguments.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
