"""The latest data: a pointer in the store that scheduled runs follow and `mistere data publish` moves."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.object_store import ABSENT, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError

LATEST_KEY = "data/latest.json"


class LatestData(BaseModel):
    """A published dataset version.

    Attributes:
        digest: the DVC digest.
        remote: URL of the DVC remote that holds it, as DVC writes it.
        source: the source that `mistere data publish` was called with.
        published_at: seconds since 1970.
    """

    model_config = ConfigDict(extra="forbid")

    digest: str
    remote: str
    source: str = ""
    published_at: float


@dataclass(frozen=True)
class LatestPointer:
    """The pointer as read, with the object version that a later move expects."""

    latest: LatestData | None
    version: str


def read_latest(store: ObjectStore) -> LatestPointer:
    """Read the pointer.

    Raises:
        ArtifactError: the pointer is damaged.
    """
    try:
        data, version = store.read(LATEST_KEY)
    except MissingObjectError:
        return LatestPointer(None, ABSENT)
    try:
        return LatestPointer(LatestData.model_validate_json(data), version)
    except ValidationError as error:
        raise ArtifactError(
            f"the pointer to the latest data, {store.location(LATEST_KEY)}, is damaged: delete it and run `mistere data publish` again."
        ) from error


def move_latest(store: ObjectStore, seen: LatestPointer, latest: LatestData) -> None:
    """Move the pointer to ``latest`` unless another process moved it after ``seen`` was read.

    Raises:
        ConflictError: another process moved it.
    """
    store.write(LATEST_KEY, latest.model_dump_json(indent=1).encode(), expected=seen.version)
