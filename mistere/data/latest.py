"""The latest data: one pointer in the store, which a schedule's runs follow and `mistere data publish` moves."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.object_store import ABSENT, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError

LATEST_KEY = "data/latest.json"


class LatestData(BaseModel):
    """A dataset version that runs may use from now on.

    Attributes:
        digest: the DVC digest.
        remote: the DVC remote that holds it, in DVC's own spelling.
        source: what the person who published it named.
        published_at: seconds since 1970.
    """

    model_config = ConfigDict(extra="forbid")

    digest: str
    remote: str
    source: str = ""
    published_at: float


@dataclass(frozen=True)
class LatestPointer:
    """The pointer as it was read, with the version that a later move must still find."""

    latest: LatestData | None
    version: str


def read_latest(store: ObjectStore) -> LatestPointer:
    """Read the pointer.

    Raises:
        ArtifactError: it is there but damaged.
    """
    try:
        data, version = store.read(LATEST_KEY)
    except MissingObjectError:
        return LatestPointer(None, ABSENT)
    try:
        return LatestPointer(LatestData.model_validate_json(data), version)
    except ValidationError as error:
        raise ArtifactError(
            f"the pointer to the latest data, {store.location(LATEST_KEY)}, is damaged: delete it and `mistere data publish` again."
        ) from error


def move_latest(store: ObjectStore, seen: LatestPointer, latest: LatestData) -> None:
    """Make ``latest`` the data that runs use, unless somebody moved the pointer since ``seen`` was read.

    Raises:
        ConflictError: somebody did.
    """
    store.write(LATEST_KEY, latest.model_dump_json(indent=1).encode(), expected=seen.version)
