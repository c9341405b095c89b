"""An MLflow client that checks answers: MLflow's own takes any JSON with status 200 for success, also ``{}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.tracking import MlflowClient

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url

if TYPE_CHECKING:
    from mlflow.entities import Experiment, LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

AFFECTS_RESULTS = False
"""What is sent to the tracking server changes no result."""


class CheckedClient(MlflowClient):  # type: ignore[misc]
    """A client whose answers name what was requested; each method raises MistereError if one does not."""

    def _require(self, holds: bool, request: str) -> None:
        if not holds:
            raise MistereError(
                f"the server at {redact_url(self.tracking_uri)} does not answer as MLflow does (200 to {request}, without its result): "
                "name the address of the MLflow server instead."
            )

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        experiment = super().get_experiment_by_name(name)
        self._require(experiment is None or experiment.name == name, f"the experiment {name}")
        return experiment

    def create_experiment(self, name: str, *arguments: Any, **options: Any) -> str:
        created = super().create_experiment(name, *arguments, **options)
        self._require(bool(created), f"the new experiment {name}")
        return str(created)

    def create_run(self, experiment_id: str, *arguments: Any, **options: Any) -> Run:
        run = super().create_run(experiment_id, *arguments, **options)
        self._require(bool(run.info.run_id), "a new run")
        return run

    def get_run(self, run_id: str) -> Run:
        run = super().get_run(run_id)
        self._require(run.info.run_id == run_id, f"the run {run_id}")
        return run

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        super().set_terminated(run_id, status, end_time)
        self._require(self.get_run(run_id).info.end_time is not None, f"the end of run {run_id}")

    def create_logged_model(self, experiment_id: str, *arguments: Any, **options: Any) -> LoggedModel:
        model = super().create_logged_model(experiment_id, *arguments, **options)
        self._require(bool(model.model_id), "a new model of a run")
        return model

    def get_registered_model(self, name: str) -> RegisteredModel:
        model = super().get_registered_model(name)
        self._require(model.name == name, f"the model {name}")
        return model

    def create_registered_model(self, name: str, *arguments: Any, **options: Any) -> RegisteredModel:
        model = super().create_registered_model(name, *arguments, **options)
        self._require(model.name == name, f"the new model {name}")
        return model

    def create_model_version(self, name: str, *arguments: Any, **options: Any) -> ModelVersion:
        version = super().create_model_version(name, *arguments, **options)
        self._require(version.name == name and bool(version.version), f"a new version of {name}")
        return version

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        super().set_registered_model_alias(name, alias, version)
        current = self.get_model_version_by_alias(name, alias).version
        self._require(str(current) == str(version), f"the alias {alias} of {name}")
