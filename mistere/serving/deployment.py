"""The deployment that stays after a run: a pointer in the store to the bundle that is served."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.config.deployment import Mode


class NotTakenBackError(MistereError):
    """A roll-out failed, and what it had moved could not be put back: whoever comes next has to."""


class Deployment(BaseModel):
    """Which bundle a service serves, and, on a cluster, as what.

    Attributes:
        service: its name.
        bundle_location: the bundle's place.
        bundle_digest: its digest.
        model_version: its version in the registry.
        mode: where it is served.
        image: the predictor's, on a cluster.
        settings: the ``deployment`` section, on a cluster: another bundle is served there with the same.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    service: str
    bundle_location: str
    bundle_digest: str
    model_version: str
    mode: Mode = "local"
    image: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


def deployment_key(service: str) -> str:
    """Where a service's pointer lies in the store."""
    return f"deployments/{service}/deployment.json"


def journal_key(service: str) -> str:
    """Where a service's journal lies in the store."""
    return f"deployments/{service}/journal.json"


def deployed_services(store: ObjectStore) -> list[str]:
    """Names of the services that have a pointer."""
    return [key.split("/")[1] for key in store.keys("deployments") if key.endswith("/deployment.json")]


def read_deployment(store: ObjectStore, service: str) -> Deployment:
    """The pointer of a service.

    Raises:
        UsageError: nothing has been deployed there.
        ArtifactError: the pointer is damaged.
    """
    key = deployment_key(service)
    try:
        return Deployment.model_validate_json(store.read(key)[0])
    except MissingObjectError as error:
        raise UsageError(f"nothing is deployed in {store.uri}: run `mistere run` first, or name a bundle.") from error
    except ValidationError as error:
        raise ArtifactError(f"{store.location(key)} is damaged: run `mistere run` again to deploy anew.") from error
