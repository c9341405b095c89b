"""The champion: one pointer in the object store, moved by a conditional put as the last step of a release."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from mistere.artifacts.io import artifact_key
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import ConflictError, ObjectStore
from mistere.artifacts.pointer import Pointer
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import UsageError
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
    """The released model, and the one that it replaced.

    Attributes:
        fence: random text that changes the object, and so fails a late write; see :func:`fence_champion`.
    """

    bundle_digest: Segment
    evaluation_digest: Segment
    model_name: str
    model_version: str
    run_id: Segment
    moved_at: float
    previous: Predecessor | None = None
    fence: str = ""

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

    def is_same(self, other: ChampionPointer) -> bool:
        """Whether both name the same champion, whatever their fences."""
        return _without_fence(self.champion) == _without_fence(other.champion)

    def moved_by(self, bundle_digest: str, moved_at: float) -> bool:
        """Whether the release of a bundle at a time has moved the champion there; an earlier one of the same bundle has not."""
        champion = self.champion
        return champion is not None and (champion.bundle_digest, champion.moved_at) == (bundle_digest, moved_at)


_NONE = Champion(bundle_digest="", evaluation_digest="", model_name="", model_version="", run_id="", moved_at=0.0)
"""The content of the object if it was fenced while there was no champion."""
_REMEDY = "restore it from a copy of the store, or delete it and run `mistere promote` with the version that `mistere models --log` names last"
_POINTER = Pointer(CHAMPION_KEY, Champion, "champion", _REMEDY)


def read_champion(store: ObjectStore) -> ChampionPointer:
    """Read the pointer.

    Raises:
        ArtifactError: the pointer is damaged.
    """
    reading = _POINTER.read(store)
    champion = reading.value if reading.value is not None and reading.value.bundle_digest else None
    return ChampionPointer(champion, reading.version)


def chosen_bundle(store: ObjectStore, named: str, setting: str) -> tuple[str, str]:
    """Digest and version of the bundle that a setting names, or of the champion; the version is empty if it is unknown.

    Args:
        store: the object store.
        named: digest of a bundle; empty for the champion.
        setting: the name of the setting, for messages.

    Raises:
        UsageError: there is no such bundle, or no champion.
    """
    champion = read_champion(store).champion
    if named and not (champion and champion.bundle_digest == named):
        if not store.exists(f"{artifact_key(ModelBundle.__name__, named)}/manifest.json"):
            raise UsageError(f"{setting}: there is no bundle {named[:12]} in {store.uri}: `mistere models` lists them.")
        return named, ""
    if champion is None:
        raise UsageError(f"no model has been released in {store.uri}: run the retraining first, or set {setting}.")
    return champion.bundle_digest, champion.model_version


def fence_champion(store: ObjectStore, pointer: ChampionPointer) -> None:
    """Write the same champion as another version of the object, so that a move that is still on its way to the store fails.

    Without a champion, an object without a bundle is written.

    Raises:
        ConflictError: the pointer was moved since ``pointer`` was read.
    """
    champion = pointer.champion or _NONE
    move_champion(store, pointer, champion.model_copy(update={"fence": secrets.token_hex(8)}))


def settled_champion(store: ObjectStore, moved: Callable[[ChampionPointer], bool]) -> ChampionPointer:
    """The champion, once a release that lost its journal cannot move it any more.

    Its process may have sent the conditional write before it lost the journal or was killed. That write either has moved the champion
    already, or fails because the object is another one now.

    Args:
        store: the store.
        moved: whether the release has moved the champion there.
    """
    while True:
        pointer = read_champion(store)
        if moved(pointer):
            return pointer
        with suppress(ConflictError):
            fence_champion(store, pointer)
            return read_champion(store)


def _without_fence(champion: Champion | None) -> Champion | None:
    return champion and champion.model_copy(update={"fence": ""})


def move_champion(store: ObjectStore, seen: ChampionPointer, champion: Champion) -> None:
    """Move the pointer to ``champion``.

    Raises:
        ConflictError: the pointer was moved since ``seen`` was read.
    """
    _POINTER.move(store, seen.version, champion)
