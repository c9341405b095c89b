"""Checkpoints of one step, stored under the step's key: a local folder to work in, and the object store."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.errors import ArtifactError
from mistere.common.names import path_below
from mistere.common.paths import cache_directory

AFFECTS_RESULTS = False
"""A resumed step has the result of an uninterrupted one, so how checkpoints are stored changes no result."""

_MARKER = ".complete"
"""Suffix of the object that is written last and marks a checkpoint in a remote store as complete."""


class Checkpoints:
    """The checkpoints of one step.

    The step reads and writes ``directory``. With a local store it is the store's own folder. With a remote store,
    :meth:`restore` fills it at the start and :meth:`save` uploads each finished checkpoint.
    """

    def __init__(self, store: ObjectStore, stage: str, key: str) -> None:
        self._store, self._stage, self._key = store, stage, key
        self._prefix = f"checkpoints/{stage}/{key}"
        local = store.local_path(self._prefix) if isinstance(store, LocalStore) else None
        self._remote = local is None
        self.directory: Path = local or cache_directory("checkpoints", stage, key)

    def below(self, name: str) -> Checkpoints:
        """The checkpoints of one part of the step, which are cleared with the step's."""
        return Checkpoints(self._store, self._stage, f"{self._key}/{name}")

    def restore(self) -> None:
        """Download checkpoints that this machine lacks. A checkpoint without a marker is ignored."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self._remote:
            return
        names = [key[len(self._prefix) + 1 :] for key in self._store.keys(self._prefix)]
        complete = {name.removesuffix(_MARKER) for name in names if name.endswith(_MARKER)}
        for name in names:
            path = path_below(self.directory, name, self._store.location(self._prefix), ArtifactError, "delete it")
            if name.split("/")[0] in complete and not path.exists():
                self._store.download(f"{self._prefix}/{name}", path)

    def save(self, name: str) -> None:
        """Upload one finished checkpoint (a file or folder in ``directory``) and delete those that are gone from there.

        The marker is written after all files, and older checkpoints are deleted after that, their markers first: whenever the
        process is killed, the store holds a complete checkpoint, and each one with a marker is complete.
        """
        if not self._remote:
            return
        path = self.directory / name
        files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
        for file in files:
            self._store.upload(file, f"{self._prefix}/{file.relative_to(self.directory).as_posix()}")
        self._store.write(f"{self._prefix}/{name}{_MARKER}", b"")
        names = [key[len(self._prefix) + 1 :] for key in self._store.keys(self._prefix)]
        for other in sorted(names, key=lambda other: not other.endswith(_MARKER)):  # markers first
            checkpoint = other.split("/")[0].removesuffix(_MARKER)
            if not (self.directory / checkpoint).exists():
                self._store.delete_object(f"{self._prefix}/{other}")

    def clear(self) -> None:
        """Delete all checkpoints, after the step has finished."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._remote:
            self._store.delete(self._prefix)
