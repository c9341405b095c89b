"""Runs a compiled pipeline with every step as a pod: ``python -m tests.e2e.compiled_pipeline PIPELINE.yaml ROOT CLUSTER.json``.

The pipeline gets no arguments, as when somebody starts it on the page of Kubeflow Pipelines. KFP's local runner reads the compiled YAML and
walks its graph: conditions, loops, retries, the exit handler. What it ignores is added
here: the second document (users, secrets, volumes, deadlines) and the limits of the first. ``CLUSTER.json`` says what the namespace
gives to its pods; the secrets' values come from the environment variable ``MISTERE_E2E_SECRETS``. A process of its own, because KFP
writes to its output.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from mistere.common.processes.parent_death import die_with_parent
from tests.e2e.pods import Namespace, step_container, wait_for
from tests.yaml_documents import documents

SECRETS_VARIABLE: Final = "MISTERE_E2E_SECRETS"
_EXECUTOR: Final = "MISTERE_E2E_EXECUTOR"
"""Names the executor for the task handler; KFP passes only the image, the command and the environment."""


class CompiledPipeline:
    """The two documents of a compiled pipeline."""

    def __init__(self, path: Path) -> None:
        self._pipeline, platform = documents(path.read_text(encoding="utf-8"))
        self._executors = self._pipeline["deploymentSpec"]["executors"]
        self._platform = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    @property
    def names(self) -> list[str]:
        """The executors."""
        return sorted(self._executors)

    def container(self, name: str) -> dict[str, Any]:
        """The container of an executor."""
        return dict(self._executors[name]["container"])

    def with_names(self) -> str:
        """The pipeline as YAML, with each executor's name in its environment."""
        pipeline = copy.deepcopy(self._pipeline)
        for name, executor in pipeline["deploymentSpec"]["executors"].items():
            executor["container"].setdefault("env", []).append({"name": _EXECUTOR, "value": name})
        return yaml.safe_dump(pipeline)

    def platform(self, name: str) -> dict[str, Any]:
        """The settings of an executor for Kubernetes."""
        return dict(self._platform[name])


def main(path: Path, root: Path, cluster: Path) -> None:
    """Run the pipeline; the outcome is in the store."""
    die_with_parent()
    os.umask(0)  # the containers' user writes to KFP's folders
    from kfp import components, local

    compiled = CompiledPipeline(path)
    component = components.load_component_from_text(compiled.with_names())
    namespace = read_namespace(cluster, json.loads(os.environ.pop(SECRETS_VARIABLE)))
    _run_steps_as_pods(compiled, namespace)
    local.init(local.DockerRunner(), pipeline_root=str(root), raise_on_error=True)
    component()


def read_namespace(path: Path, secrets: Mapping[str, Mapping[str, str]]) -> Namespace:
    """Read a namespace's description, without its secrets."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Namespace(
        label=stored["label"],
        folder=Path(stored["folder"]),
        secrets=secrets,
        config_maps=stored["config_maps"],
        account=Path(stored["account"]),
        api_port=stored["api_port"],
    )


def _run_steps_as_pods(compiled: CompiledPipeline, namespace: Namespace) -> None:
    """Replace the handler that KFP's local runner uses for the container of a step."""
    from kfp.local import docker_task_handler
    from kfp.local.status import Status
    from kfp.local.task_handler_interface import ITaskHandler

    numbers = itertools.count(1)

    class PodTaskHandler(ITaskHandler):
        def __init__(
            self, image: str, full_command: list[str], pipeline_root: str, runner: Any, env_vars: dict[str, str]
        ) -> None:
            self._executor = env_vars[_EXECUTOR]
            self._image, self._command, self._root = image, full_command, Path(pipeline_root)

        def run(self) -> Status:
            platform = compiled.platform(self._executor)
            container = step_container(
                self._image, self._command, compiled.container(self._executor), platform, namespace
            )
            container.volumes[str(self._root)] = (self._root, "rw")  # in place of KFP's launcher and object store
            name = f"mistere-step-{namespace.label}-{next(numbers)}"
            print(f"pod {name}: {self._executor} in {self._image}", flush=True)
            container.start(name, namespace.label)
            ended = wait_for(name, float(platform["activeDeadlineSeconds"]))
            print(ended.log)
            print(f"pod {name}: exit code {ended.exit_code}{', out of memory' if ended.out_of_memory else ''}")
            return Status.FAILURE if ended.exit_code else Status.SUCCESS

    docker_task_handler.DockerTaskHandler = PodTaskHandler


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
