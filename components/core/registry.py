"""The model registry: MLflow runs, model versions and aliases. The champion itself is the pointer in the store."""

from __future__ import annotations

import os
from collections.abc import Mapping
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


def register(
    tracking_uri: str,
    config: RegistryConfig,
    lineage: Lineage,
    *,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
) -> str:
    """Register a bundle as a model version with alias ``challenger``; the same bundle is registered once.

    Returns:
        The version.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with _client(tracking_uri) as client:
        known = client.search_model_versions(
            f"name = '{config.model_name}' and tags.`{_TAG}bundle_digest` = '{lineage.bundle_digest}'"
        )
        version = str(known[0].version) if known else _create(client, config, lineage, metrics, parameters)
        client.set_registered_model_alias(config.model_name, CHALLENGER, version)
        return version


def _create(
    client: MlflowClient,
    config: RegistryConfig,
    lineage: Lineage,
    metrics: Mapping[str, float],
    parameters: Mapping[str, Any],
) -> str:
    import time

    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(config.experiment)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(config.experiment)
    tags = {f"{_TAG}{name}": str(value) for name, value in asdict(lineage).items() if not isinstance(value, dict)}
    tags |= {f"{_TAG}encoder.{name}": digest for name, digest in lineage.encoder_digests.items()}
    run = client.create_run(experiment_id, run_name=lineage.run_id)
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        params=[Param(name, str(value)[:500]) for name, value in parameters.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    try:
        client.create_registered_model(config.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(config.model_name, lineage.bundle_location, run.info.run_id, tags=tags)
    client.set_terminated(run.info.run_id)
    return str(version.version)


def mirror_champion(tracking_uri: str, model_name: str, version: str) -> None:
    """Point alias ``champion`` to a version and ``previous`` to the one before it."""
    from mlflow.exceptions import MlflowException

    with _client(tracking_uri) as client:
        try:
            before = str(client.get_model_version_by_alias(model_name, CHAMPION).version)
        except MlflowException:
            before = ""
        if before and before != version:
            client.set_registered_model_alias(model_name, PREVIOUS, before)
        client.set_registered_model_alias(model_name, CHAMPION, version)


@contextmanager
def _client(tracking_uri: str) -> Iterator[MlflowClient]:
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
