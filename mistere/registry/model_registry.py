"""The model registry: MLflow runs, model versions and aliases. The champion itself is the pointer in the store.

The server is whatever a URI names: SQLite here, PostgreSQL (``postgresql://``) or a server (``http://``). One pipeline run is
one MLflow run, found again by its tag; a bundle is one model version, found again by its digest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistere.artifacts.identities import RunIdentity
from mistere.common.errors import MistereError, UsageError
from mistere.common.urls import redact_url
from mistere.config.registry import RegistryConfig
from mistere.registry.champion import Champion
from mistere.registry.lineage import Lineage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
_TAG = "mistere."
_RUN_TAG = f"{_TAG}run_id"
_METRICS_A_CALL, _PARAMETERS_A_CALL = 1000, 100  # what the server takes at once
_LONGEST_DIGEST = 36
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class RunRecord:
    """What MLflow is told of a pipeline run.

    Attributes:
        run_id: the pipeline's.
        metrics: the evaluation's.
        parameters: the run's settings; sections within are logged as ``section.key``.
        histories: of its trainings, an entry an epoch, by what was trained; logged with the epoch as step.
        dataset: name of the data that it was trained on; empty where that is not known.
        dvc_digest: the data's version.
        data_source: where the data is.
        tags: more facts.
    """

    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    histories: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    dataset: str = ""
    dvc_digest: str = ""
    data_source: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RegisteredVersion:
    """A model version as the registry knows it."""

    name: str
    version: str
    bundle_digest: str
    bundle_location: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: float
    weighted_f1: float | None = None


def register(
    tracking_uri: str, config: RegistryConfig, lineage: Lineage, record: RunRecord, artifact_root: str, signature: Path
) -> str:
    """Register a bundle as a model version with alias ``challenger``; the same bundle is registered once.

    Args:
        tracking_uri: the server.
        config: names.
        lineage: what made it; becomes the version's tags.
        record: what the run measured.
        artifact_root: where MLflow keeps files of a new experiment, where no server decides that itself.
        signature: folder with ``MLmodel``, for a server that cannot read the bundle where it lies.

    Returns:
        The version.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        known = _versions(
            client, f"name = '{config.model_name}' and tags.`{_TAG}bundle_digest` = '{lineage.bundle_digest}'"
        )
        run_id = _log_run(client, config.experiment, record, artifact_root)
        tags = _version_tags(lineage)
        if known:
            version = known[0].version
            for key, value in tags.items():
                client.set_model_version_tag(config.model_name, version, key, value)
        else:
            version = _create(client, config, lineage, run_id, tags, signature)
        client.set_registered_model_alias(config.model_name, CHALLENGER, version)
        client.set_terminated(run_id)
        return str(version)


def _version_tags(lineage: Lineage) -> dict[str, str]:
    plain = lineage.model_dump(
        exclude={
            "config",
            "artifacts",
            "environment",
            "encoders",
            "run",
            "model_name",
            "model_version",
        }
    )
    tags = {f"{_TAG}{name}": str(value) for name, value in plain.items()} | run_tags(lineage.run)
    tags |= {f"{_TAG}encoder.{name}": encoder.digest for name, encoder in lineage.encoders.items()}
    return tags | {f"{_TAG}encoder.{name}.source": encoder.source for name, encoder in lineage.encoders.items()}


def run_tags(run: RunIdentity) -> dict[str, str]:
    """A run's identity as tags of an MLflow run or model version."""
    return {f"{_TAG}{name}": str(value) for name, value in run.model_dump().items()}


def _create(
    client: MlflowClient,
    config: RegistryConfig,
    lineage: Lineage,
    run_id: str,
    tags: Mapping[str, str],
    signature: Path,
) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(config.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = lineage.bundle_location
    if client.tracking_uri.startswith("http") and "://" not in source:
        # A server takes a folder of this machine for an attack; it gets what describes the bundle, and a tag says where it is.
        client.log_artifact(run_id, str(signature / "MLmodel"), "bundle")
        client.log_artifact(run_id, str(signature / "README.md"), "bundle")
        source = f"runs:/{run_id}/bundle"
    version = client.create_model_version(config.model_name, source, run_id, tags=dict(tags))
    return str(version.version)


def registered_versions(tracking_uri: str, model_name: str) -> list[RegisteredVersion]:
    """Every version of a model, newest first; none where the model is not known.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    from mlflow.exceptions import MlflowException

    with connected(tracking_uri) as client:
        try:
            aliases: dict[str, list[str]] = {}
            for alias, version in client.get_registered_model(model_name).aliases.items():
                aliases.setdefault(str(version), []).append(alias)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return []
            raise
        found = _versions(client, f"name = '{model_name}'")
        return sorted(
            (_registered(client, one, tuple(sorted(aliases.get(str(one.version), ())))) for one in found),
            key=lambda one: -int(one.version),
        )


def _versions(client: MlflowClient, filter_string: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(filter_string, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _registered(client: MlflowClient, one: ModelVersion, aliases: tuple[str, ...]) -> RegisteredVersion:
    from mlflow.exceptions import MlflowException

    tags = {key.removeprefix(_TAG): value for key, value in one.tags.items() if key.startswith(_TAG)}
    figure = None
    with suppress(MlflowException):
        figure = client.get_run(one.run_id).data.metrics.get("test.weighted_f1") if one.run_id else None
    return RegisteredVersion(
        name=one.name,
        version=str(one.version),
        bundle_digest=tags.get("bundle_digest", ""),
        bundle_location=tags.get("bundle_location", ""),
        aliases=aliases,
        tags=tags,
        created=one.creation_timestamp / 1000,
        weighted_f1=figure,
    )


def find_version(tracking_uri: str, reference: str, default_name: str) -> RegisteredVersion:
    """The version that a person means: ``MODEL``, ``MODEL@ALIAS``, ``@ALIAS``, ``MODEL/VERSION``, a version or a digest's start.

    Args:
        tracking_uri: the server.
        reference: as it was typed; a model alone is its ``champion``.
        default_name: the model, where none is named.

    Raises:
        UsageError: there is no such version; the message lists what there is.
        MistereError: the tracking server cannot be reached or refuses.
    """
    name, at, alias = reference.partition("@")
    name, slash, number = name.partition("/")
    digest = ""
    if not at and not slash and re.fullmatch(r"\d{1,6}", name):
        name, number = "", name
    elif not at and not slash and re.fullmatch(r"[0-9a-f]{7,64}", name):
        name, digest = "", name
    name = name or default_name
    versions = registered_versions(tracking_uri, name)
    if not versions:
        raise UsageError(f"the registry knows no model {name!r} yet: `mistere run` registers one.")
    if digest:
        found = [one for one in versions if one.bundle_digest.startswith(digest)]
    elif number:
        found = [one for one in versions if one.version == number]
    else:
        alias = alias or CHAMPION
        found = [one for one in versions if alias in one.aliases]
    if not found:
        there = ", ".join(f"{one.version}{''.join(f' @{alias}' for alias in one.aliases)}" for one in versions[:10])
        raise UsageError(
            f"there is no {reference!r} among the versions of {name} ({there}): `mistere models` lists them."
        )
    return found[0]


def log_training(
    tracking_uri: str,
    experiment: str,
    name: str,
    *,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
) -> None:
    """Log one training as a run: settings, curve and figures.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    record = RunRecord(name, metrics, parameters, {"train_moe": history})
    with connected(tracking_uri) as client:
        client.set_terminated(_log_run(client, experiment, record, "", reuse=False))


def log_run(
    tracking_uri: str, config: RegistryConfig, record: RunRecord, artifact_root: str, files: Sequence[Path] = ()
) -> None:
    """Log a pipeline run, registered or not, with files such as its report; a run that is known already is added to.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        run_id = _log_run(client, config.experiment, record, artifact_root)
        for file in files:
            client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)


def _log_run(
    client: MlflowClient, experiment: str, record: RunRecord, artifact_root: str, *, reuse: bool = True
) -> str:
    """Make the run, or find the one of this pipeline run, and log what it does not have yet; its id."""
    import time

    from mlflow.entities import Metric, Param, RunTag

    found = client.get_experiment_by_name(experiment)
    location = artifact_root if artifact_root and not client.tracking_uri.startswith("http") else None
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, artifact_location=location)
    begun = (
        client.search_runs([experiment_id], f"tags.`{_RUN_TAG}` = '{record.run_id}'", max_results=1) if reuse else []
    )
    if begun:
        run_id, logged_already = str(begun[0].info.run_id), set(begun[0].data.metrics)
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
    for start in range(0, len(logged), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=logged[start : start + _METRICS_A_CALL])
    parameters = [] if begun else [Param(key, str(value)[:500]) for key, value in _flat(record.parameters)]
    for start in range(0, len(parameters), _PARAMETERS_A_CALL):
        client.log_batch(run_id, params=parameters[start : start + _PARAMETERS_A_CALL])
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record.tags.items()])
    if record.dvc_digest and not begun:
        client.log_inputs(run_id, datasets=[_dataset_input(record)])
    return run_id


def _dataset_input(record: RunRecord) -> Any:
    """The dataset as MLflow shows it: its name, the DVC digest, and where it comes from."""
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": redact_url(record.data_source), "dvc_digest": record.dvc_digest})
    dataset = Dataset(record.dataset, record.dvc_digest[:_LONGEST_DIGEST], "dvc", source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _metric_name(name: str) -> str:
    """The name with ``_`` for what MLflow does not take; labels and a dataset's own columns may hold anything."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)


def mirror_champion(tracking_uri: str, champion: Champion) -> None:
    """Point alias ``champion`` to a champion's version and ``previous`` to that of the one before it.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        if champion.previous is not None:
            client.set_registered_model_alias(champion.model_name, PREVIOUS, champion.previous.model_version)
        client.set_registered_model_alias(champion.model_name, CHAMPION, champion.model_version)


@contextmanager
def connected(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client of a tracking server.

    Raises:
        MistereError: the server cannot be reached or refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own seven take four minutes
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    _insist_on_listener(tracking_uri)
    try:
        yield MlflowClient(tracking_uri=tracking_uri)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise MistereError(
            f"the MLflow server at {redact_url(tracking_uri)} did not take it ({reason[:200]})."
        ) from error
    except ModuleNotFoundError as error:
        if not tracking_uri.startswith("postgresql"):
            raise
        raise MistereError(
            f"{redact_url(tracking_uri)} needs a driver for PostgreSQL: pip install 'mistere[postgres]'."
        ) from error


def _insist_on_listener(uri: str) -> None:
    """A database that nobody listens at is told at once: MLflow itself tries it again for two minutes."""
    import socket
    from urllib.parse import urlsplit

    if not uri.startswith("postgresql"):
        return
    try:
        parts = urlsplit(uri)
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or 5432), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise MistereError(f"the registry's database at {redact_url(uri)} cannot be reached ({error}).") from error
