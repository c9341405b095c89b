"""Sign a published bundle, record its lineage and register it: what a run and ``mistere register`` do alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.config.registry import RegistryConfig
from mistere.registry.lineage import Lineage
from mistere.registry.mlflow.run_logging import RunRecord

AFFECTS_RESULTS = False
"""A version of the registry is no result of a stage."""


def register_bundle(
    store: ObjectStore,
    tracking_uri: str,
    config: RegistryConfig,
    bundle: ArtifactHandle[ModelBundle],
    lineage: Lineage,
    record: RunRecord,
    note: Callable[[str], object],
) -> Mapping[str, str]:
    """Register a bundle as a version with alias ``challenger``.

    Args:
        store: the store that holds it.
        tracking_uri: of the MLflow server or database.
        config: names of model and experiment.
        bundle: the published bundle.
        lineage: what it was made from.
        record: what MLflow logs of the run or training.
        note: receives a sentence for each thing done.

    Returns:
        Version, name and location of the model, and the id of the experiment.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
        UsageError: the signing key cannot be read.
    """
    from mistere.artifacts.signing import sign_bundle
    from mistere.registry.lineage import write_lineage
    from mistere.registry.mlflow.model_registry import register

    if sign_bundle(store, bundle):
        note("the bundle is signed.")
    standing = write_lineage(store, lineage)
    registered = register(tracking_uri, config, standing, record, store, bundle.path)
    version = registered.version
    write_lineage(store, standing.model_copy(update={"model_version": version}))
    note(f"registered as {config.model_name} version {version} (alias challenger).")
    return {
        "model_version": version,
        "model_name": config.model_name,
        "bundle_location": lineage.bundle_location,
        "experiment": registered.run.experiment_id,
    }
