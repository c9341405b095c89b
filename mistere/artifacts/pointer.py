"""Pointers: JSON objects in the store that name the current value of something and move by a conditional put.

The champion and the latest data are such pointers. Reading a pointer returns the version of the object too, and moving it
succeeds only while the store still holds that version, so two processes cannot overwrite each other's move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from mistere.artifacts.object_store import ABSENT, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError

AFFECTS_RESULTS = False
"""A pointer is read and moved; nothing is computed."""

Value = TypeVar("Value", bound=SealedRecord)


@dataclass(frozen=True)
class Reading(Generic[Value]):
    """A pointer's value as it was read; None before the first move.

    Attributes:
        value: the value.
        version: the version of the object in the store, which :meth:`Pointer.move` expects.
    """

    value: Value | None
    version: str


@dataclass(frozen=True)
class Pointer(Generic[Value]):
    """One pointer in a store.

    Attributes:
        key: the key of its object.
        kind: the model of its value.
        name: what it points to, for error messages.
        remedy: how a user repairs a damaged pointer, for error messages.
    """

    key: str
    kind: type[Value]
    name: str
    remedy: str

    def read(self, store: ObjectStore) -> Reading[Value]:
        """Read the pointer.

        Raises:
            ArtifactError: the object exists but is damaged.
        """
        try:
            data, version = store.read(self.key)
        except MissingObjectError:
            return Reading(None, ABSENT)
        value = self.kind.unsealed(data)
        if value is None:
            raise ArtifactError(f"the {self.name} pointer {store.location(self.key)} is damaged: {self.remedy}.")
        return Reading(value, version)

    def move(self, store: ObjectStore, version: str, value: Value) -> None:
        """Replace the value, unless another process has moved the pointer since it was read.

        Args:
            store: the store.
            version: the version that :meth:`read` returned.
            value: the new value.

        Raises:
            ConflictError: another process has moved it.
        """
        store.write(self.key, value.sealed(), expected=version)
