"""The pipeline with every step in its own image's container: ``python -m tests.e2e.steps_in_containers ARGUMENTS.json ROOT``.

A process of its own, for kfp's output goes to a log. ``DOCKER_HOST`` says where the engine is, ``MISTERE_E2E_LABEL`` marks the
containers, ``MISTERE_E2E_KEYS`` names the variables that they are given.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mistere.common.parent_death import die_with_parent
from tests.e2e.containers import restrictions


def main(arguments: Path, root: Path) -> None:
    """Run the pipeline; the outcome is in the store."""
    die_with_parent()
    os.umask(0)  # the containers' user writes to kfp's folders
    from kfp import local

    from pipelines.retraining import retraining

    environment = {key: os.environ[key] for key in os.environ["MISTERE_E2E_KEYS"].split(",")}
    runner = local.DockerRunner(**restrictions(os.environ["MISTERE_E2E_LABEL"], environment))
    local.init(runner, pipeline_root=str(root), raise_on_error=True)
    retraining()(**json.loads(arguments.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
