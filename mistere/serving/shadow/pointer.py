"""Which bundle a service's shadow serves: a record in the store beside the service's deployment."""

from __future__ import annotations

from typing import Self

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError
from mistere.serving.deployment import Deployment


class Shadow(SealedRecord):
    """The shadow of a service.

    Attributes:
        deployment: what it serves and, on a cluster, how; ``service`` is the service that it shadows.
        model_name: the registered model.
        started_at: seconds since 1970.
        by: who started it.
    """

    deployment: Deployment
    model_name: str
    started_at: float
    by: str

    @property
    def named(self) -> str:
        """The model and its version."""
        return f"{self.model_name}/{self.deployment.model_version}"

    def recorded(self, store: ObjectStore) -> bytes:
        """The content of the record; a bundle of this store is recorded relative to it."""
        return self.model_copy(update={"deployment": self.deployment.relative_to(store)}).sealed()

    @classmethod
    def parse(cls, store: ObjectStore, recorded: bytes) -> Self | None:
        """Read a record; None if it is damaged."""
        shadow = cls.unsealed(recorded)
        if shadow is None or not shadow.deployment.bundle_digest:
            return None
        return shadow.model_copy(update={"deployment": shadow.deployment.resolved(store)})


def shadow_pointer_key(service: str) -> str:
    """The key of the record."""
    return f"deployments/{service}/shadow.json"


def write_shadow(store: ObjectStore, shadow: Shadow) -> None:
    """Write the record; an earlier one is replaced."""
    store.write(shadow_pointer_key(shadow.deployment.service), shadow.recorded(store))


def find_shadow(store: ObjectStore, service: str) -> Shadow | None:
    """The shadow of a service; None without one.

    Raises:
        ArtifactError: the record is damaged.
    """
    key = shadow_pointer_key(service)
    try:
        data = store.read(key)[0]
    except MissingObjectError:
        return None
    shadow = Shadow.parse(store, data)
    if shadow is None:
        raise ArtifactError(
            f"the record of the shadow {store.location(key)} is damaged",
            "remove it with `mistere shadow stop`, and start the shadow again",
        )
    return shadow


def remove_shadow(store: ObjectStore, service: str) -> None:
    """Delete the record, damaged or not."""
    store.delete_object(shadow_pointer_key(service))
