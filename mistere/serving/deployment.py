"""Deployments: a pointer in the store to the bundle that a service serves."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from pydantic import Field

from mistere.artifacts.locations import recorded_location, resolved_location
from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.common.names import OneLine, Segment
from mistere.config.deployment import DeploymentConfig, Mode


class RollbackError(MistereError):
    """A roll-out failed and could not be undone; the next release undoes it."""


class Deployment(SealedRecord):
    """The bundle that a service serves and, on a cluster, how.

    Attributes:
        service: name of the service.
        bundle_location: location of the bundle.
        bundle_digest: digest of the bundle.
        model_version: version of the bundle in the registry.
        mode: ``local``, or the KServe mode.
        image: the predictor's image; empty for ``local``.
        settings: the ``deployment`` section, with which a later release serves another bundle; empty for ``local``.
        amounts: what this bundle needs, in place of settings that are ``auto``.
        fence: random text in the store only, which makes each written pointer another version of the object. A conditional write of
            a killed release that arrives after the pointer was written again so fails, although the deployment is the same.
    """

    service: Segment
    bundle_location: OneLine
    bundle_digest: Segment
    model_version: str
    mode: Mode = "local"
    image: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    amounts: dict[str, Any] = Field(default_factory=dict, exclude_if=lambda amounts: not amounts)
    fence: str = ""

    def recorded(self, store: ObjectStore) -> bytes:
        """The content of the pointer in the store with a new fence; a bundle of this store is recorded relative to it."""
        return self.relative_to(store).model_copy(update={"fence": secrets.token_hex(8)}).sealed()

    @classmethod
    def parse(cls, store: ObjectStore, recorded: str | bytes) -> Deployment:
        """Read the content of a pointer.

        Raises:
            ValueError: it is no pointer, or a damaged one.
            ArtifactError: the bundle's location leads out of the store.
        """
        deployment = cls.unsealed(recorded)
        if deployment is None:
            raise ValueError("no deployment pointer")
        return deployment.resolved(store).model_copy(update={"fence": ""})

    def relative_to(self, store: ObjectStore) -> Deployment:
        """The deployment as a record of the store holds it: a bundle of this store is named relative to it."""
        return self.model_copy(update={"bundle_location": recorded_location(store, self.bundle_location)})

    def resolved(self, store: ObjectStore) -> Deployment:
        """The deployment of a record of the store, with the bundle's complete location.

        Raises:
            ArtifactError: the location leads out of the store.
        """
        return self.model_copy(update={"bundle_location": resolved_location(store, self.bundle_location)})


def deployment_key(service: str) -> str:
    """The key of a service's pointer in the store."""
    return f"deployments/{service}/deployment.json"


def journal_key(service: str) -> str:
    """The key of a service's release journal in the store."""
    return f"deployments/{service}/journal.json"


def not_deployed(service: str) -> Deployment:
    """The content of the pointer of a service whose first release was rolled back."""
    return Deployment(service=service, bundle_location="", bundle_digest="", model_version="")


def deployed_services(store: ObjectStore) -> list[str]:
    """The names of the services that have a pointer; a damaged pointer counts."""
    names = [key.split("/")[1] for key in store.keys("deployments") if key.endswith("/deployment.json")]
    return [name for name in names if _is_deployed(store, name)]


def _is_deployed(store: ObjectStore, service: str) -> bool:
    try:
        return find_deployment(store, service) is not None
    except ArtifactError:
        return True


def service_and_bundle(output: Path, bundle: str | None) -> tuple[str, str]:
    """The service of an output directory, and the location of the bundle to serve.

    Args:
        output: the output directory of ``mistere run``.
        bundle: location of a bundle; None for the one that is deployed.

    Raises:
        UsageError: nothing is deployed.
    """
    store = LocalStore(output.resolve() / "store")
    services = deployed_services(store)
    service = services[0] if len(services) == 1 else DeploymentConfig().service
    return service, bundle or read_deployment(store, service).bundle_location


def read_deployment(store: ObjectStore, service: str) -> Deployment:
    """Read the pointer of a service.

    Raises:
        UsageError: nothing has been deployed.
        ArtifactError: the pointer is damaged.
    """
    deployment = find_deployment(store, service)
    if deployment is None:
        raise UsageError(f"nothing is deployed in {store.uri}: run `mistere run` first, or name a bundle.")
    return deployment


def find_deployment(store: ObjectStore, service: str) -> Deployment | None:
    """Read the pointer of a service; None if nothing is deployed.

    Raises:
        ArtifactError: the pointer is damaged.
    """
    key = deployment_key(service)
    try:
        deployment = Deployment.parse(store, store.read(key)[0])
    except MissingObjectError:
        return None
    except ValueError as error:
        raise ArtifactError(
            f"{store.location(key)} is damaged: restore it from a copy of the store, or delete it and run `mistere promote` with the "
            "version that is served, which writes it again."
        ) from error
    return deployment if deployment.bundle_digest else None
