"""The progress of running steps as small objects in the store, so that a run can be followed without access to its logs.

``runs/<run>/progress/<task>.json`` is written when the step starts and then at most every :data:`SECONDS`, by a thread of its own:
a store that is slow or away delays no step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Final

from pydantic import BaseModel, ValidationError

from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore
from mistere.common.errors import MistereError
from mistere.common.progress import Progress

AFFECTS_RESULTS = False
"""How progress is shown changes no result."""

SECONDS: Final = 15.0


class LiveProgress(BaseModel):
    """How far a step is.

    Attributes:
        started: when the step's process started, in seconds since 1970.
        updated: when this was known, in seconds since 1970.
        message: the unit and the latest metric.
        done: completed amount.
        total: total amount; 0 if unknown.
    """

    task: str
    started: float
    updated: float
    message: str = ""
    done: float = 0.0
    total: float = 0.0


def progress_key(run_id: str, task: str) -> str:
    """Key of a task's progress in the store."""
    return f"runs/{run_id}/progress/{task}.json"


class StoredProgress(Progress):
    """Reports the progress of a task also to the store, while :meth:`storing` is active.

    Args:
        task: the task.
        store: a remote store; in a local one, nothing is stored.
        run_id: of the run.
        seconds: between two writes.
    """

    def __init__(self, task: str, store: ObjectStore, run_id: str, seconds: float = SECONDS) -> None:
        super().__init__(task)
        self._store, self._key, self._seconds = store, progress_key(run_id, task), seconds
        self._started = time.time()
        self._latest: tuple[str, float, float] = ("", 0.0, 0.0)
        self._ended = threading.Event()

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        """Report the progress of the task."""
        self._latest = (message, float(done), float(total))
        super().__call__(message, done, total)

    def note(self, message: str) -> None:
        """Record a message, which is also the latest that is known of the step."""
        self._latest = (message, *self._latest[1:])
        super().note(message)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Context in which the progress is stored."""
        if isinstance(self._store, LocalStore):
            yield
            return
        writer = threading.Thread(target=self._write, name="progress", daemon=True)
        writer.start()
        try:
            yield
        finally:
            self._ended.set()

    def _write(self) -> None:
        written: tuple[str, float, float] | None = None
        while True:
            latest = self._latest
            if latest != written:
                message, done, total = latest
                live = LiveProgress(
                    task=self.task, started=self._started, updated=time.time(), message=message, done=done, total=total
                )
                with suppress(MistereError, OSError):
                    self._store.write(self._key, live.model_dump_json().encode())
                    written = latest
            if self._ended.wait(self._seconds):
                return


class ProgressReader:
    """Reads the progress of a run's steps, each object only when it has changed."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store, self._prefix = store, str(PurePosixPath(progress_key(run_id, "x")).parent)
        self._seen: dict[str, str] = {}

    def changed(self) -> list[LiveProgress]:
        """What has changed since the last call."""
        changed = []
        for key, version in self._store.versions(self._prefix):
            if self._seen.get(key) == version:
                continue
            self._seen[key] = version
            with suppress(MissingObjectError, ValidationError):
                changed.append(LiveProgress.model_validate_json(self._store.read(key)[0]))
        return changed
