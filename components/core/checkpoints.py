"""Checkpoints of one step, under the step's key: local folder to work in, object store to survive the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.core.places import cache_directory
from components.core.store import LocalStore, ObjectStore


class Checkpoints:
    """The checkpoints of one step.

    ``directory`` is where the step reads and writes. With a local store it is the store's own folder; with a remote one,
    :meth:`restore` fills it at the start and :meth:`save` sends each finished checkpoint.
    """

    def __init__(self, store: ObjectStore, stage: str, key: str) -> None:
        self._store = store
        self._prefix = f"checkpoints/{stage}/{key}"
        local = store.local_path(self._prefix) if isinstance(store, LocalStore) else None
        self._remote = local is None
        self.directory: Path = local or cache_directory("checkpoints", stage, key)

    def restore(self) -> None:
        """Fetch what the store has and this machine has not. A checkpoint counts only once its marker is there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._remote:
            return
        for key in self._store.keys(self._prefix):
            path = self.directory / key[len(self._prefix) + 1 :]
            if not path.exists():
                self._store.download(key, path)

    def save(self, name: str) -> None:
        """Send one finished checkpoint (a file or folder in ``directory``), the rest of the store's copies go."""
        if not self._remote:
            return
        path = self.directory / name
        files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
        sent = {f"{self._prefix}/{file.relative_to(self.directory).as_posix()}" for file in files}
        for file in files:
            self._store.upload(file, f"{self._prefix}/{file.relative_to(self.directory).as_posix()}")
        for key in list(self._store.keys(self._prefix)):
            if key not in sent:
                self._store.delete_object(key)

    def clear(self) -> None:
        """Forget them: the step is done."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._remote:
            self._store.delete(self._prefix)
