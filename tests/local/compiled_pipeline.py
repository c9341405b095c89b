"""A compiled pipeline, read back from its YAML and run by kfp's local runner in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.compile import compile_pipeline
from tests.local.workshop import ROOT

_RUN = """
import json, sys
from kfp import local
from kfp.components import load_component_from_file

local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=False)
load_component_from_file(sys.argv[1])(**json.loads(sys.argv[3]))
"""


def compile_without_retries(profile: str, settings: list[str], output: Path) -> Path:
    """Compile a profile; a failed step is not tried again, because the local runner would wait as long as a cluster."""
    steps = ("resolve_inputs", "report_run", "pull_data", "deploy_model")
    compile_pipeline(profile, [*settings, *(f"cluster.steps.{step}.retries=0" for step in steps)], output)
    return output


def run_compiled(pipeline: Path, root: Path, environment: Mapping[str, str], **arguments: Any) -> str:
    """Run a compiled pipeline; returns what kfp and the steps printed.

    Args:
        pipeline: the YAML.
        root: directory for the artifacts that kfp passes between tasks.
        environment: what Secrets and the ConfigMap put into a pod's environment.
        arguments: parameters of the run.
    """
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(pipeline), str(root), json.dumps(arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    return done.stdout
