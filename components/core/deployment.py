"""The deployment that stays after a run: a pointer in the store to the bundle that is served."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import ArtifactError, UsageError
from components.core.store import MissingObjectError, ObjectStore


class Deployment(BaseModel):
    """Which bundle a service serves."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    service: str
    bundle_location: str
    bundle_digest: str
    model_version: str


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
