"""A command's work in a store: alone, and with a folder for files that are being written."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.common.processes.run_locks import only_run
from mistere.engine.execution import scratch_directory


@contextlib.contextmanager
def locked(store: ObjectStore) -> Iterator[None]:
    """Keep runs of the same output directory from starting, which delete unfinished files of others."""
    with only_run(store.root.parent) if isinstance(store, LocalStore) else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def scratch_folder(store: ObjectStore) -> Iterator[Path]:
    """A temporary folder, removed afterwards; of a local store on its own disk, so that publishing is a rename."""
    folder = scratch_directory(store)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
