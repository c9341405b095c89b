"""Checkpoints of one step, under the step's key: local folder to work in, object store to survive the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.paths import cache_directory

_MARKER = ".complete"
"""Ends the name of the object that says, written last, that a checkpoint is whole in a remote store."""


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
        names = [key[len(self._prefix) + 1 :] for key in self._store.keys(self._prefix)]
        whole = {name.removesuffix(_MARKER) for name in names if name.endswith(_MARKER)}
        for name in names:
            path = self.directory / name
            if name.split("/")[0] in whole and not path.exists():
                self._store.download(f"{self._prefix}/{name}", path)

    def save(self, name: str) -> None:
        """Send one finished checkpoint (a file or folder in ``directory``); the store forgets those gone from there.

        Files that other machines sent of a checkpoint (:meth:`send`) stay with it.
        """
        if not self._remote:
            return
        self.send(name)
        self._store.write(f"{self._prefix}/{name}{_MARKER}", b"")
        for key in list(self._store.keys(self._prefix)):
            checkpoint = key[len(self._prefix) + 1 :].split("/")[0].removesuffix(_MARKER)
            if not (self.directory / checkpoint).exists():
                self._store.delete_object(key)

    def send(self, name: str, pattern: str = "*") -> None:
        """Send what matches of a checkpoint (a file or folder in ``directory``); it counts once :meth:`save` has ended."""
        if not self._remote:
            return
        path = self.directory / name
        files = [path] if path.is_file() else [file for file in sorted(path.rglob(pattern)) if file.is_file()]
        for file in files:
            self._store.upload(file, f"{self._prefix}/{file.relative_to(self.directory).as_posix()}")

    def clear(self) -> None:
        """Forget them: the step is done."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._remote:
            self._store.delete(self._prefix)
