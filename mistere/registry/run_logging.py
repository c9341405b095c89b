"""Pipeline runs and trainings as MLflow runs: settings, metrics, training curves and the dataset."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.artifacts.identities import DatasetIdentity, RunIdentity
from mistere.common.paths import file_url
from mistere.common.urls import redact_url
from mistere.config.registry import RegistryConfig
from mistere.registry.mlflow_connection import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.tracking import MlflowClient

TAG_PREFIX: Final = "mistere."
"""Of the project's tags in MLflow."""

_RUN_TAG: Final = f"{TAG_PREFIX}run_id"
_METRICS_PER_CALL, _PARAMETERS_PER_CALL = 1000, 100  # limits of the server
_LONGEST_DIGEST = 36


@dataclass(frozen=True)
class RunRecord:
    """What is logged of a pipeline run.

    Attributes:
        run_id: of the pipeline run.
        metrics: of the evaluation.
        parameters: the settings of the run; nested ones are logged as ``section.key``.
        histories: an entry per epoch, by what was trained; logged with the epoch as step.
        dataset: version of the training data; without a digest if unknown.
        tags: further facts.
    """

    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    dataset: DatasetIdentity = field(default_factory=DatasetIdentity)
    tags: Mapping[str, str] = field(default_factory=dict)


def run_tags(run: RunIdentity) -> dict[str, str]:
    """A run's identity as tags of an MLflow run or model version."""
    return {f"{TAG_PREFIX}{name}": str(value) for name, value in run.model_dump().items()}


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
    record = RunRecord(name, metrics, parameters, {"train_moe": history})
    with connected(tracking_uri) as client:
        client.set_terminated(record_run(client, experiment, record, "", reuse=False))


def log_run(
    tracking_uri: str, config: RegistryConfig, record: RunRecord, artifact_root: str, files: Sequence[Path] = ()
) -> None:
    """Log a pipeline run with files such as its report; extend its MLflow run if there is one already.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        run_id = record_run(client, config.experiment, record, artifact_root)
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)


def record_run(
    client: MlflowClient, experiment: str, record: RunRecord, artifact_root: str, *, reuse: bool = True
) -> str:
    """Create the MLflow run of a pipeline run, or find it, and log what it lacks.

    Args:
        client: of the tracking server.
        experiment: name of the MLflow experiment.
        record: what is logged.
        artifact_root: where MLflow keeps the files of a new experiment, unless a server decides that itself.
        reuse: whether to look for the MLflow run of the same pipeline run first.

    Returns:
        The id of the MLflow run.
    """
    from mlflow.entities import Metric, Param, RunTag

    known = client.get_experiment_by_name(experiment)
    location = _artifact_location(artifact_root) if not client.tracking_uri.startswith("http") else None
    experiment_id = known.experiment_id if known else client.create_experiment(experiment, artifact_location=location)
    earlier = (
        client.search_runs([experiment_id], f"tags.`{_RUN_TAG}` = '{record.run_id}'", max_results=1) if reuse else []
    )
    if earlier:
        run_id, logged_already = str(earlier[0].info.run_id), set(earlier[0].data.metrics)
    else:
        tags = {_RUN_TAG: record.run_id} if reuse else {}
        run_id = str(client.create_run(experiment_id, run_name=record.run_id, tags=tags).info.run_id)
        logged_already = set()
    now = int(time.time() * 1000)
    logged = [
        Metric(_metric_name(f"{trained}.{key}"), value, now, int(epoch["epoch"]))
        for trained, history in record.histories.items()
        for epoch in history
        for key, value in epoch.items()
        if key != "epoch"
    ]
    logged += [Metric(_metric_name(key), value, now, 0) for key, value in record.metrics.items()]
    logged = [metric for metric in logged if metric.key not in logged_already]
    for start in range(0, len(logged), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=logged[start : start + _METRICS_PER_CALL])
    complete = bool(earlier and earlier[0].data.params)  # an attempt that was killed may have logged nothing
    parameters = [] if complete else [Param(key, str(value)[:500]) for key, value in _flat(record.parameters)]
    for start in range(0, len(parameters), _PARAMETERS_PER_CALL):
        client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_PER_CALL])
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record.tags.items()])
    if record.dataset.dvc_digest and not (earlier and earlier[0].inputs.dataset_inputs):
        client.log_inputs(run_id, datasets=[_dataset_input(record.dataset)])
    return run_id


def _artifact_location(root: str) -> str | None:
    """The location of a new experiment's files, as MLflow reads it; None for MLflow's own choice."""
    if not root:
        return None
    return root if "://" in root else file_url(Path(root))


def _dataset_input(identity: DatasetIdentity) -> Any:
    """The dataset as MLflow shows it: name, DVC digest and source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": redact_url(identity.remote), "dvc_digest": identity.dvc_digest})
    dataset = Dataset(identity.name, identity.dvc_digest[:_LONGEST_DIGEST], "dvc", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _metric_name(name: str) -> str:
    """Replace characters that MLflow refuses by ``_``; labels and columns of a dataset may hold any character."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)
