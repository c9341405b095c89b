"""The learning curve in MLflow during training. If the tracking server is unavailable, training continues without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mistere.common.errors import MistereError
from mistere.common.progress import Progress
from mistere.config.registry import RegistryConfig
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.run_logging import artifact_root, find_experiment, parameter_texts

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

AFFECTS_RESULTS = False
"""What is sent to the tracking server changes no result."""

_KEY = "mistere.step_key"


class LiveRun:
    """One step's run in MLflow. A step that resumes finds its run by the step's key.

    Args:
        uri: the tracking server.
        run_id: the pipeline's run, for the name.
        task: the task, for the name.
        key: the step's key.
        progress: gets one note if the server does not answer.
        store: URI of the object store, which holds the files of a new experiment.
    """

    def __init__(self, uri: str, run_id: str, task: str, key: str, progress: Progress, store: str) -> None:
        self._uri, self._name, self._key, self._progress = uri, f"{run_id}/{task}", key, progress
        self._root = artifact_root(store)
        self._run = ""
        self._silent = False

    def start(self, parameters: Mapping[str, Any]) -> None:
        """Create the run, or find the one that was started before."""

        def begin(client: MlflowClient) -> None:
            from mlflow.entities import Param

            experiment = find_experiment(client, RegistryConfig().experiment, self._root)
            begun = client.search_runs([experiment], f"tags.`{_KEY}` = '{self._key}'", max_results=1)
            if begun:
                self._run = begun[0].info.run_id
                client.update_run(self._run, status="RUNNING")
                return
            self._run = client.create_run(experiment, run_name=self._name, tags={_KEY: self._key}).info.run_id
            client.log_batch(self._run, params=[Param(*item) for item in parameter_texts(parameters).items()])

        self._do(begin)

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Log metrics of an epoch."""

        def log(client: MlflowClient) -> None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            client.log_batch(self._run, metrics=[Metric(key, value, now, epoch) for key, value in metrics.items()])

        if self._run and metrics:
            self._do(log)

    def finish(self) -> None:
        """Close the run."""
        if self._run:
            self._do(lambda client: client.set_terminated(self._run))

    def _do(self, work: Callable[[MlflowClient], None]) -> None:
        if self._silent:
            return
        try:
            with connected(self._uri) as client:
                work(client)
        except MistereError as error:
            self._silent = True
            self._progress.note(f"the curve is not logged: {error}")
