"""The model registry: MLflow runs, model versions and aliases. The champion itself is the pointer in the store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from components.core.config.registry import RegistryConfig
from components.core.errors import MistereError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.tracking import MlflowClient

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
_TAG = "mistere."
_METRICS_A_CALL = 1000  # what the server takes at once


@dataclass(frozen=True)
class Lineage:
    """What made a model version; becomes its tags."""

    run_id: str
    bundle_digest: str
    bundle_location: str
    dvc_digest: str
    dataset: str
    commit: str
    dirty: bool
    verdict: str
    encoder_digests: Mapping[str, str]
    encoder_sources: Mapping[str, str]


def register(
    tracking_uri: str,
    config: RegistryConfig,
    lineage: Lineage,
    *,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
) -> str:
    """Register a bundle as a model version with alias ``challenger``; the same bundle is registered once.

    Args:
        tracking_uri: the server.
        config: names.
        lineage: what made it.
        metrics: the evaluation's.
        parameters: the mixture's settings.
        histories: of its trainings, an entry an epoch, by what was trained; logged with the epoch as step.

    Returns:
        The version.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        known = client.search_model_versions(
            f"name = '{config.model_name}' and tags.`{_TAG}bundle_digest` = '{lineage.bundle_digest}'"
        )
        version = str(known[0].version) if known else _create(client, config, lineage, metrics, parameters, histories)
        client.set_registered_model_alias(config.model_name, CHALLENGER, version)
        return version


def _create(
    client: MlflowClient,
    config: RegistryConfig,
    lineage: Lineage,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
) -> str:
    from mlflow.exceptions import MlflowException

    tags = {f"{_TAG}{name}": str(value) for name, value in asdict(lineage).items() if not isinstance(value, dict)}
    tags |= {f"{_TAG}encoder.{name}": digest for name, digest in lineage.encoder_digests.items()}
    tags |= {f"{_TAG}encoder.{name}.source": source for name, source in lineage.encoder_sources.items()}
    run_id = _log_run(client, config.experiment, lineage.run_id, metrics, parameters, histories, tags)
    try:
        client.create_registered_model(config.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(config.model_name, lineage.bundle_location, run_id, tags=tags)
    client.set_terminated(run_id)
    return str(version.version)


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
    with connected(tracking_uri) as client:
        client.set_terminated(_log_run(client, experiment, name, metrics, parameters, {"train_moe": history}, {}))


def _log_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    tags: Mapping[str, str],
) -> str:
    """Make a run and log into it; its id."""
    import time

    from mlflow.entities import Metric, Param, RunTag

    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    run_id = str(client.create_run(experiment_id, run_name=name).info.run_id)
    now = int(time.time() * 1000)
    logged = [
        Metric(f"{trained}.{key}", value, now, int(epoch["epoch"]))
        for trained, history in histories.items()
        for epoch in history
        for key, value in epoch.items()
        if key != "epoch"
    ]
    logged += [Metric(key, value, now, 0) for key, value in metrics.items()]
    for start in range(0, len(logged), _METRICS_A_CALL):
        client.log_batch(run_id, metrics=logged[start : start + _METRICS_A_CALL])
    client.log_batch(
        run_id,
        params=[Param(key, str(value)[:500]) for key, value in parameters.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    return run_id


def mirror_champion(tracking_uri: str, model_name: str, version: str) -> None:
    """Point alias ``champion`` to a version and ``previous`` to the one before it."""
    from mlflow.exceptions import MlflowException

    with connected(tracking_uri) as client:
        try:
            before = str(client.get_model_version_by_alias(model_name, CHAMPION).version)
        except MlflowException:
            before = ""
        if before and before != version:
            client.set_registered_model_alias(model_name, PREVIOUS, before)
        client.set_registered_model_alias(model_name, CHAMPION, version)


@contextmanager
def connected(tracking_uri: str) -> Iterator[MlflowClient]:
    """A client of a tracking server.

    Raises:
        MistereError: the server cannot be reached or refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        yield MlflowClient(tracking_uri=tracking_uri)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise MistereError(
            f"the MLflow server at {shown_uri(tracking_uri)} did not take it ({reason[:200]})."
        ) from error


def shown_uri(uri: str) -> str:
    """A URI without the password it may carry."""
    from urllib.parse import urlsplit

    parts = urlsplit(uri)
    return uri if not parts.password else uri.replace(f":{parts.password}@", ":***@")
