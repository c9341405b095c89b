"""The store and the registry that a command uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mistere.artifacts.object_store import LocalStore, ObjectStore, open_store
from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.paths import check_folder, sqlite_url
from mistere.common.urls import redact_url
from mistere.registry.lineage import Lineage, read_lineage
from mistere.registry.mlflow.model_registry import (
    RegisteredVersion,
    UnknownModelError,
    find_version,
    registered_versions,
)
from mistere.registry.release.champion import read_champion

DATABASE: Final = "mlflow.db"
"""The registry of an output directory, unless a tracking server is named."""


@dataclass(frozen=True)
class RegistryLocation:
    """A store and its tracking server.

    Attributes:
        options: the options of another command that finds both; none if the environment names them.
    """

    store: ObjectStore
    tracking_uri: str
    options: tuple[str, ...] = ()

    def find(self, reference: str, model_name: str) -> tuple[RegisteredVersion, Lineage]:
        """The version that a reference names, and its lineage.

        Raises:
            UsageError: there is no such version.
            ArtifactError: it has no lineage, or the registry is not the store's.
        """
        try:
            version = find_version(self.tracking_uri, reference, model_name)
        except UnknownModelError:
            self.require_registered(())
            raise
        return version, read_lineage(self.store, version.bundle_digest)

    def require_registered(self, versions: Sequence[RegisteredVersion]) -> None:
        """Check that a registry without versions is the store's, which may have a champion that it does not know.

        Args:
            versions: of a model.

        Raises:
            ArtifactError: it is another one, or was emptied.
        """
        champion = None if versions else read_champion(self.store).champion
        if champion is not None and not registered_versions(self.tracking_uri, champion.model_name):
            raise ArtifactError(
                f"the registry {redact_url(self.tracking_uri)} holds no version of {champion.model_name}, although version "
                f"{champion.model_version} is the champion of {self.store.uri}",
                f"restore the registry from a copy, or name the one that belongs to the store ({TRACKING_VARIABLE})",
            )


def registry_location(
    output: Path, store: str | None, tracking: str | None, *, create: bool = False
) -> RegistryLocation:
    """The store and tracking server that options or environment name; by default those of the output directory.

    Args:
        output: the output directory of ``mistere run``.
        store: a directory or ``s3://…``; None for ``MISTERE_STORE``, or the output directory's.
        tracking: a tracking server; None for ``MLFLOW_TRACKING_URI`` if a store is named, or the output directory's.
        create: whether an output directory without a run gets a store.

    Raises:
        UsageError: the output directory has no run, or a store is named without a tracking server.
    """
    named = store or os.environ.get(STORE_VARIABLE)
    options = [
        word for name, value in (("--store", store), ("--tracking", tracking)) if value for word in (name, value)
    ]
    if named:
        uri = tracking or os.environ.get(TRACKING_VARIABLE)
        if not uri:
            raise UsageError(f"{named}: name its tracking server too ({TRACKING_VARIABLE}, or the command's option).")
        return RegistryLocation(open_store(named), uri, tuple(options))
    if create:
        check_folder(output.resolve(), "--output")
        (output.resolve() / "store").mkdir(parents=True, exist_ok=True)
    if output != Path("output"):
        options += ["--output", str(output)]
    database = tracking or sqlite_url(output.resolve() / DATABASE)
    return RegistryLocation(store_location(output, None), database, tuple(options))


def registry_of(store: ObjectStore, tracking: str | None) -> RegistryLocation:
    """The registry that belongs to a store which a bundle's location named.

    Args:
        store: the store.
        tracking: a tracking server; None for that of the environment if it names this store too, or the database beside a local store.

    Raises:
        UsageError: the store has no database beside it, and no tracking server is named.
    """
    named = os.environ.get(STORE_VARIABLE)
    if named and open_store(named).uri == store.uri:
        return registry_location(Path("output"), None, tracking)
    if isinstance(store, LocalStore) and store.root.name == "store":
        output = store.root.parent
        uri = tracking or sqlite_url(output / DATABASE)
        if named:  # the environment names another one
            return RegistryLocation(store, uri, ("--store", str(store.root), "--tracking", uri))
        options = ["--tracking", tracking] if tracking else []
        if output != Path("output").resolve():
            options += ["--output", str(output)]
        return RegistryLocation(store, uri, tuple(options))
    uri = tracking or os.environ.get(TRACKING_VARIABLE) or ""
    if not uri:
        raise UsageError(
            f"{store.uri}: name its tracking server with --tracking ({TRACKING_VARIABLE}), or register nothing with --no-register."
        )
    return RegistryLocation(store, uri, ("--store", store.uri, "--tracking", uri))


def store_location(output: Path, store: str | None) -> ObjectStore:
    """The store alone, found in the same way.

    Raises:
        UsageError: the output directory has no run.
    """
    named = store or os.environ.get(STORE_VARIABLE)
    if named:
        return open_store(named)
    root = output.resolve()
    if not (root / "store").is_dir():
        raise UsageError(f"nothing has run in {root}: `mistere run` first, or name the folder with --output.")
    return LocalStore(root / "store")
