"""Pipeline runs and trainings as MLflow runs: settings, metrics, training curves and the dataset."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml

from mistere.artifacts.identities import DatasetIdentity, RunIdentity
from mistere.common.errors import MistereError
from mistere.common.os_errors import disk_error
from mistere.common.paths import file_url
from mistere.common.secrets.redaction import redact
from mistere.common.urls import redact_url
from mistere.config.registry import RegistryConfig
from mistere.registry.mlflow.connection import causes, connected

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

AFFECTS_RESULTS = False
"""What is logged changes no result."""

TAG_PREFIX: Final = "mistere."
"""Of the project's tags in MLflow."""
CONFIGURATION_FILE: Final = "configuration.yaml"
"""The file of an MLflow run with its complete configuration."""

_RUN_TAG: Final = f"{TAG_PREFIX}run_id"
_METRICS_PER_CALL, _PARAMETERS_PER_CALL = 1000, 100  # limits of the server
_LONGEST_DIGEST, _LONGEST_PARAMETER, _LONGEST_TAG = 36, 500, 5000

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunRecord:
    """What is logged of a pipeline run.

    Attributes:
        run_id: of the pipeline run.
        metrics: of the evaluation.
        parameters: the settings that differ from their defaults; nested ones are logged as ``section.key``.
        configuration: all settings, logged as a file; empty for none.
        histories: an entry per epoch, by what was trained; logged with the epoch as step.
        dataset: version of the training data; without a digest if unknown.
        tags: further facts.
        started: when the run began, in seconds since 1970; None if unknown.
        status: how the run ended.
    """

    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    dataset: DatasetIdentity = field(default_factory=DatasetIdentity)
    tags: Mapping[str, str] = field(default_factory=dict)
    started: float | None = None
    status: RunStatus = "FINISHED"


@dataclass(frozen=True)
class LoggedRun:
    """An MLflow run, and the experiment that it belongs to."""

    run_id: str
    experiment_id: str


def run_tags(run: RunIdentity) -> dict[str, str]:
    """A run's identity as tags of an MLflow run or model version."""
    return {f"{TAG_PREFIX}{name}": str(value) for name, value in run.model_dump().items()}


def artifact_root(store: str) -> str:
    """Where MLflow keeps the files of a new experiment in a store, unless a server decides that itself."""
    return f"{store.rstrip('/')}/mlflow"


def start_facts(info: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a :class:`RunRecord` that the record of the run's start determines.

    Args:
        info: the content of ``run.json``; empty if unknown. Those of earlier releases do not say which settings differ from their
            defaults, so all are logged as parameters.
    """
    configuration, changed = info.get("config") or {}, info.get("changed")
    started = info.get("started")
    # the columns Source and Version of MLflow's table of runs
    source = {
        "mlflow.source.name": str(info.get("command") or ""),
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": str(info.get("commit") or ""),
    }
    return {
        "parameters": changed if isinstance(changed, Mapping) else configuration,
        "configuration": configuration,
        "started": float(started) if isinstance(started, int | float) else None,
        "tags": {name: value for name, value in source.items() if value} if source["mlflow.source.name"] else {},
    }


def log_training(
    tracking_uri: str,
    experiment: str,
    name: str,
    *,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
) -> None:
    """Log one training as an MLflow run: settings, training curve and metrics.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    record = RunRecord(name, metrics, parameters, histories={"train_moe": history})
    with connected(tracking_uri) as client:
        client.set_terminated(record_run(client, experiment, record, "", reuse=False).run_id)


def log_run(tracking_uri: str, config: RegistryConfig, record: RunRecord, artifact_root: str) -> LoggedRun:
    """Log a pipeline run that has ended; extend its MLflow run if there is one already.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        logged = record_run(client, config.experiment, record, artifact_root)
        client.set_terminated(logged.run_id, status=record.status)
        return logged


def log_files(tracking_uri: str, run: LoggedRun, files: Sequence[Path]) -> None:
    """Add files, such as the report, to an MLflow run.

    Raises:
        MistereError: the tracking server cannot be reached or refuses, or the files cannot be stored.
    """
    with connected(tracking_uri) as client, storing(f"run {run.run_id}"):
        for file in files:
            client.log_artifact(run.run_id, str(file))


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Context for uploads to MLflow's artifact store, whose clients raise errors of their own packages.

    Args:
        what: whose files are stored, for error messages.

    Raises:
        MistereError: the files cannot be stored.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MistereError:
        raise
    except Exception as error:
        # where MLflow's server cannot write a file, it answers 500, or resets the connection while the file is sent
        status = re.search(r"too many (5\d\d) error responses", str(error))
        reset = any(isinstance(cause, ConnectionResetError) for cause in causes(error))
        text = f"status {status[1]}" if status else "connection reset" if reset else ""
        if isinstance(error, MlflowException) and not text:
            raise
        reason = text or re.sub(r"\s+", " ", redact(str(error) or type(error).__name__))[:200]
        raise disk_error(error, "MLflow's artifact store") or MistereError(
            f"the files of MLflow's {what} cannot be stored ({reason}): check the artifact store of the MLflow server, and the access "
            "to it from here."
        ) from error


def find_experiment(client: MlflowClient, name: str, artifact_root: str) -> str:
    """The id of an experiment, which is created if it does not exist.

    Args:
        client: of the tracking server.
        name: name of the experiment.
        artifact_root: where MLflow keeps the files of a new experiment, unless a server decides that itself.
    """
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        location = _artifact_location(artifact_root) if not client.tracking_uri.startswith("http") else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            known = client.get_experiment_by_name(name)  # another run has created it meanwhile
    if known is None:
        raise MistereError(f"the MLflow experiment {name} exists and cannot be read: check the rights of the login.")
    return str(known.experiment_id)


def record_run(
    client: MlflowClient, experiment: str, record: RunRecord, artifact_root: str, *, reuse: bool = True
) -> LoggedRun:
    """Create the MLflow run of a pipeline run, or find it, and log what it lacks.

    Args:
        client: of the tracking server.
        experiment: name of the MLflow experiment.
        record: what is logged.
        artifact_root: where MLflow keeps the files of a new experiment, unless a server decides that itself.
        reuse: whether to look for the MLflow run of the same pipeline run first.
    """
    from mlflow.entities import Metric, Param, RunTag

    experiment_id = find_experiment(client, experiment, artifact_root)
    earlier = (
        client.search_runs([experiment_id], f"tags.`{_RUN_TAG}` = '{record.run_id}'", max_results=1) if reuse else []
    )
    if earlier:
        run_id, logged_already = str(earlier[0].info.run_id), set(earlier[0].data.metrics)
    else:
        tags = {_RUN_TAG: record.run_id} if reuse else {}
        started = None if record.started is None else int(record.started * 1000)
        created = client.create_run(experiment_id, start_time=started, run_name=record.run_id, tags=tags)
        run_id, logged_already = str(created.info.run_id), set()
    now = int(time.time() * 1000)
    logged = [
        Metric(metric_name(f"{trained}.{key}"), value, now, int(epoch["epoch"]))
        for trained, history in record.histories.items()
        for epoch in history
        for key, value in epoch.items()
        if key != "epoch"
    ]
    logged += [Metric(metric_name(key), value, now, 0) for key, value in record.metrics.items()]
    logged = [metric for metric in logged if metric.key not in logged_already]
    for start in range(0, len(logged), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=logged[start : start + _METRICS_PER_CALL])
    if not (earlier and earlier[0].data.params):  # an attempt that was killed may have logged nothing
        parameters = [Param(key, value) for key, value in parameter_texts(record.parameters).items()]
        for start in range(0, len(parameters), _PARAMETERS_PER_CALL):
            client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_PER_CALL])
        if record.configuration:
            text = yaml.safe_dump(dict(record.configuration), sort_keys=False, allow_unicode=True)
            with storing(f"run {run_id}"):
                client.log_text(run_id, text, CONFIGURATION_FILE)
    client.log_batch(run_id, tags=[RunTag(key, value[:_LONGEST_TAG]) for key, value in record.tags.items()])
    if record.dataset.dvc_digest and not (earlier and earlier[0].inputs.dataset_inputs):
        client.log_inputs(run_id, datasets=[_dataset_input(record.dataset)])
    return LoggedRun(run_id, experiment_id)


def short_digest(dataset: DatasetIdentity) -> str:
    """The digest of a dataset as MLflow stores it."""
    return dataset.dvc_digest[:_LONGEST_DIGEST]


def _artifact_location(root: str) -> str | None:
    """The location of a new experiment's files, as MLflow reads it; None for MLflow's own choice."""
    if not root:
        return None
    return root if "://" in root else file_url(Path(root))


def _dataset_input(identity: DatasetIdentity) -> Any:
    """The dataset as MLflow shows it: name, DVC digest and source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": redact_url(identity.remote), "dvc_digest": identity.dvc_digest})
    dataset = Dataset(identity.name, short_digest(identity), "dvc", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def parameter_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as MLflow stores parameters: ``section.key`` → text."""
    return {key: str(value)[:_LONGEST_PARAMETER] for key, value in _flat(settings)}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def metric_name(name: str) -> str:
    """Replace characters that MLflow refuses by ``_``; labels and columns of a dataset may hold any character."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)
