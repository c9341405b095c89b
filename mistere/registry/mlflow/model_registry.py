"""The model registry: MLflow model versions and aliases. The champion itself is the pointer in the object store.

The tracking URI names SQLite, PostgreSQL (``postgresql://``) or an MLflow server (``http://``). A pipeline run is one MLflow
run, identified by a tag; a bundle is one model version, identified by its digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.config.gate import RuleThresholds
from mistere.config.registry import RegistryConfig
from mistere.registry.lineage import Lineage, TeacherVersion
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.logged_model import link_version, log_model
from mistere.registry.mlflow.run_logging import TAG_PREFIX, LoggedRun, RunRecord, artifact_root, record_run, run_tags
from mistere.registry.release.champion import NO_CHAMPION, Champion

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient


class UnknownModelError(UsageError):
    """The registry holds no version of the model."""


CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


@dataclass(frozen=True)
class RegisteredVersion:
    """A model version of the registry."""

    name: str
    version: str
    bundle_digest: str
    bundle_location: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: float
    weighted_f1: float | None = None


@dataclass(frozen=True)
class Registration:
    """A registered version, and the MLflow run that it was registered from."""

    version: str
    run: LoggedRun


def register(
    tracking_uri: str,
    config: RegistryConfig,
    lineage: Lineage,
    record: RunRecord,
    store: ObjectStore,
    bundle: Path,
    tags: Mapping[str, str] | None = None,
) -> Registration:
    """Register a bundle as a model version with alias ``challenger``; the same bundle is registered once.

    Args:
        tracking_uri: of the MLflow server or database.
        config: names of model and experiment.
        lineage: of the bundle; becomes the version's tags.
        record: what is logged of the run.
        store: the store that holds the bundle, and the files of a new experiment, unless a server decides that itself.
        bundle: the bundle's folder on this machine.
        tags: further tags of the version, which replace those of an earlier registration.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        known = _versions(
            client, f"name = '{config.model_name}' and tags.`{TAG_PREFIX}bundle_digest` = '{lineage.bundle_digest}'"
        )
        run = record_run(client, config.experiment, record, artifact_root(store.uri))
        model = log_model(client, run, lineage, record, store.uri, bundle)
        if known:
            version = str(known[0].version)
            for key, value in _outdated(known[0].tags, lineage).items():
                client.set_model_version_tag(config.model_name, version, key, value)
        else:
            version = _create(client, config, lineage, run.run_id, model, record)
        for key, value in (tags or {}).items():
            client.set_model_version_tag(config.model_name, version, f"{TAG_PREFIX}{key}", value)
        link_version(client, model, config.model_name, version)
        client.set_registered_model_alias(config.model_name, CHALLENGER, version)
        client.set_terminated(run.run_id)
        return Registration(version, run)


_LOCATION_TAGS = tuple(f"{TAG_PREFIX}{name}" for name in ("bundle_location", "data_remote", "data_endpoint"))


def _outdated(tags: Mapping[str, str], lineage: Lineage) -> dict[str, str]:
    """The tags of a known version to correct: where its files are; and all, if its code was not committed and now is.

    Another run that gives the same bundle changes none of them: they say which run made the version.
    """
    current = _version_tags(lineage)
    committed = bool(tags.get(f"{TAG_PREFIX}commit")) and tags.get(f"{TAG_PREFIX}dirty") == "False"
    if lineage.reproducible and not committed:
        return current
    return {name: current[name] for name in _LOCATION_TAGS if tags.get(name) != current[name]}


def _version_tags(lineage: Lineage) -> dict[str, str]:
    plain = lineage.model_dump(
        exclude={
            "checksum",
            "config",
            "artifacts",
            "environment",
            "encoders",
            "run",
            "model_name",
            "model_version",
            "teacher",
        }
    )
    if not lineage.embeddings:
        del plain["embeddings"]
    if lineage.teacher is not None:
        plain |= {"teacher": lineage.teacher.bundle_digest, "teacher_version": lineage.teacher.model_version}
    tags = {f"{TAG_PREFIX}{name}": str(value) for name, value in plain.items()} | run_tags(lineage.run)
    tags |= {f"{TAG_PREFIX}encoder.{name}": encoder.digest for name, encoder in lineage.encoders.items()}
    return tags | {f"{TAG_PREFIX}encoder.{name}.source": encoder.source for name, encoder in lineage.encoders.items()}


def _create(
    client: MlflowClient,
    config: RegistryConfig,
    lineage: Lineage,
    run_id: str,
    model: LoggedModel,
    record: RunRecord,
) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(config.model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    weighted_f1 = record.metrics.get("test.weighted_f1")
    measured = "" if weighted_f1 is None else f"Weighted F1 {weighted_f1:.3f} on the test split. "
    student = f"A student of {lineage.teacher}. " if lineage.teacher else ""
    data_version = f" `{lineage.dvc_digest[:12]}`" if lineage.dvc_digest else ""
    version = client.create_model_version(
        config.model_name,
        model.artifact_location,
        run_id,
        tags=_version_tags(lineage),
        description=(
            f"{measured}{student}Bundle `{lineage.bundle_digest[:12]}`, trained on {lineage.dataset}{data_version}. "
            "`mlflow.pyfunc.load_model` opens it where the package mistere is installed and the store can be read; `mistere serve` "
            "serves it, by the location in its tags."
        ),
        model_id=model.model_id,
    )
    return str(version.version)


def registered_versions(tracking_uri: str, model_name: str) -> list[RegisteredVersion]:
    """Every version of a model, newest first; empty if the model is unknown.

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
        versions = _versions(client, f"name = '{model_name}'")
        return sorted(
            (_registered(client, entry, tuple(sorted(aliases.get(str(entry.version), ())))) for entry in versions),
            key=lambda entry: -int(entry.version),
        )


def _versions(client: MlflowClient, filter_string: str) -> list[ModelVersion]:
    versions: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(filter_string, page_token=token)
        versions += page
        token = page.token
        if not token:
            return versions


def _registered(client: MlflowClient, entry: ModelVersion, aliases: tuple[str, ...]) -> RegisteredVersion:
    from mlflow.exceptions import MlflowException

    tags = {key.removeprefix(TAG_PREFIX): value for key, value in entry.tags.items() if key.startswith(TAG_PREFIX)}
    weighted_f1 = None
    with suppress(MlflowException):
        weighted_f1 = client.get_run(entry.run_id).data.metrics.get("test.weighted_f1") if entry.run_id else None
    return RegisteredVersion(
        name=entry.name,
        version=str(entry.version),
        bundle_digest=tags.get("bundle_digest", ""),
        bundle_location=tags.get("bundle_location", ""),
        aliases=aliases,
        tags=tags,
        created=entry.creation_timestamp / 1000,
        weighted_f1=weighted_f1,
    )


def find_version(tracking_uri: str, reference: str, default_name: str) -> RegisteredVersion:
    """Find a version by ``MODEL``, ``MODEL@ALIAS``, ``@ALIAS``, ``MODEL/VERSION``, a version number (``2`` or ``v2``) or the start of a digest.

    Args:
        tracking_uri: of the MLflow server or database.
        reference: as the user typed it; a model alone means its ``champion``.
        default_name: the model, if the reference names none.

    Raises:
        UsageError: there is no such version; the message lists the existing ones.
        MistereError: the tracking server cannot be reached or refuses.
    """
    name, at, alias = reference.partition("@")
    name, slash, number = name.partition("/")
    digest = ""
    if not at and not slash and re.fullmatch(r"v?\d{1,6}", name):
        name, number = "", name.removeprefix("v")
    elif not at and not slash and re.fullmatch(r"[0-9a-f]{7,64}", name):
        name, digest = "", name
    name = name or default_name
    versions = registered_versions(tracking_uri, name)
    if not versions and name != default_name and (others := registered_versions(tracking_uri, default_name)):
        raise UsageError(
            f"the registry has no model {name!r}, and {default_name} no version of this name ({_listed(others)}): `mistere models` lists them."
        )
    if not versions:
        raise UnknownModelError(f"the registry has no model {name!r} yet: `mistere run` registers one.")
    if digest:
        matches = [entry for entry in versions if entry.bundle_digest.startswith(digest)]
    elif number:
        matches = [entry for entry in versions if entry.version == number]
    else:
        alias = alias or CHAMPION
        matches = [entry for entry in versions if alias in entry.aliases]
    if not matches:
        raise UsageError(
            f"there is no {reference!r} among the versions of {name} ({_listed(versions)}): `mistere models` lists them."
        )
    return matches[0]


def find_teacher(tracking_uri: str, model_name: str, bundle_digest: str) -> TeacherVersion:
    """A student's teacher, with its version in the registry if it has one there.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    versions = registered_versions(tracking_uri, model_name)
    version = next((one.version for one in versions if one.bundle_digest == bundle_digest), "")
    return TeacherVersion(bundle_digest=bundle_digest, model_version=version)


def resolve_anchor(gate: RuleThresholds, tracking_uri: str, default_name: str) -> str:
    """Digest of the bundle that ``gate.anchor`` names, or :data:`NO_CHAMPION`.

    Raises:
        UsageError: there is no such version.
        MistereError: the tracking server cannot be reached or refuses.
    """
    reference = str(getattr(gate, "anchor", ""))  # a rule's setting, which the rule declares
    if not reference:
        return NO_CHAMPION
    try:
        return find_version(tracking_uri, reference, default_name).bundle_digest
    except UsageError as error:
        raise UsageError(f"gate.anchor={reference}: {error}") from error


def _listed(versions: Sequence[RegisteredVersion]) -> str:
    """The newest versions with their aliases: ``2 @champion, 1``."""
    return ", ".join(f"{entry.version}{''.join(f' @{alias}' for alias in entry.aliases)}" for entry in versions[:10])


def tag_version(tracking_uri: str, model_name: str, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a version.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        for key, value in tags.items():
            client.set_model_version_tag(model_name, version, f"{TAG_PREFIX}{key}", value)


def mirror_champion(tracking_uri: str, champion: Champion) -> None:
    """Point the alias ``champion`` to the champion's version, and ``previous`` to that of its predecessor.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
    """
    with connected(tracking_uri) as client:
        if champion.previous is not None:
            client.set_registered_model_alias(champion.model_name, PREVIOUS, champion.previous.model_version)
        client.set_registered_model_alias(champion.model_name, CHAMPION, champion.model_version)
