"""A store whose process is killed at a given change: between any two changes that the world sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mistere.artifacts.object_store import ObjectStore


class KilledError(BaseException):
    """The process was killed: neither its handlers nor its next calls have any effect."""


class DyingStore(ObjectStore):
    """Passes every call on until the process is to be killed instead of a change.

    Args:
        store: where the changes go.
        changes: number of changes before the process is killed.
        kill: kills the process; by default all further calls raise :class:`KilledError`.
    """

    def __init__(self, store: ObjectStore, changes: int, kill: Callable[[], None] | None = None) -> None:
        self.uri = store.uri
        self._store, self._changes, self._kill = store, changes, kill
        self.dead = False

    def change(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make a change, of this store or of something else, or be killed instead."""
        if self._changes == 0:
            self.dead = True
            if self._kill is not None:
                self._kill()
        self._changes -= 1
        return self._alive(call)(*arguments, **options)

    def _alive(self, call: Callable[..., Any]) -> Callable[..., Any]:
        if self.dead:
            raise KilledError
        return call

    def read(self, key: str) -> tuple[bytes, str]:
        data, version = self._alive(self._store.read)(key)
        return data, version

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        return str(self.change(self._store.write, key, data, expected=expected))

    def age(self, key: str) -> float:
        return float(self._alive(self._store.age)(key))

    def exists(self, key: str) -> bool:
        return bool(self._alive(self._store.exists)(key))

    def upload(self, path: Path, key: str) -> None:
        self.change(self._store.upload, path, key)

    def download(self, key: str, path: Path) -> None:
        self._alive(self._store.download)(key, path)

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        yield from self._alive(self._store.versions)(prefix)

    def delete(self, prefix: str) -> None:
        self.change(self._store.delete, prefix)

    def delete_object(self, key: str) -> None:
        self.change(self._store.delete_object, key)
