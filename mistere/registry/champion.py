"""The champion: one pointer in the object store, moved by a conditional put as the last step of a release."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from mistere.artifacts.object_store import ObjectStore
from mistere.artifacts.pointer import Pointer
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.names import Segment

CHAMPION_KEY = "champion.json"
NO_CHAMPION = "none"
"""The pipeline parameter that replaces the champion's digest while there is no champion."""


class Predecessor(BaseModel):
    """The champion before this one."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    bundle_digest: Segment
    evaluation_digest: Segment
    model_version: str
    run_id: Segment


class Champion(SealedRecord):
    """The released model, and the one that it replaced."""

    bundle_digest: Segment
    evaluation_digest: Segment
    model_name: str
    model_version: str
    run_id: Segment
    moved_at: float
    previous: Predecessor | None = None

    def as_predecessor(self) -> Predecessor:
        """This champion as the predecessor of the next one."""
        return Predecessor(
            bundle_digest=self.bundle_digest,
            evaluation_digest=self.evaluation_digest,
            model_version=self.model_version,
            run_id=self.run_id,
        )


@dataclass(frozen=True)
class ChampionPointer:
    """The champion as it was read, with the object's version, which a later move requires to be unchanged."""

    champion: Champion | None
    version: str

    @property
    def digest(self) -> str:
        """The champion's bundle digest, or :data:`NO_CHAMPION`."""
        return self.champion.bundle_digest if self.champion else NO_CHAMPION

    def moved_by(self, bundle_digest: str, moved_at: float) -> bool:
        """Whether the release of a bundle at a time has moved the champion there; an earlier one of the same bundle has not."""
        champion = self.champion
        return champion is not None and (champion.bundle_digest, champion.moved_at) == (bundle_digest, moved_at)


_REMEDY = "restore it from a copy of the store, or delete it and run `mistere promote` with the version that `mistere models --log` names last"
_POINTER = Pointer(CHAMPION_KEY, Champion, "champion", _REMEDY)


def read_champion(store: ObjectStore) -> ChampionPointer:
    """Read the pointer.

    Raises:
        ArtifactError: the pointer is damaged.
    """
    reading = _POINTER.read(store)
    return ChampionPointer(reading.value, reading.version)


def move_champion(store: ObjectStore, seen: ChampionPointer, champion: Champion) -> None:
    """Move the pointer to ``champion``.

    Raises:
        ConflictError: the pointer was moved since ``seen`` was read.
    """
    _POINTER.move(store, seen.version, champion)
