"""Writes the log of requests to the store from a thread of its own.

A request only puts what was noted of it into a queue that is bounded in bytes. A store that fails or is slow delays no answer: what
does not fit is dropped and counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mistere.artifacts.object_store import ObjectStore
from mistere.predictor import metrics
from mistere.predictor.scheduling.observer_thread import ObserverThread, Outages
from mistere.predictor.traffic.recorder import replica_name
from mistere.serving.request_log.files import HASHING_KEY, PART_BYTES, log_file, log_key
from mistere.serving.sample.places import hashing_key
from mistere.serving.traffic.files import HOUR_SECONDS

logger = logging.getLogger("kserve.predictor")

QUEUE_BYTES: Final = 32 << 20
"""Requests that wait to be written, at most."""
_EARLY_BYTES: Final = 4 << 20
"""What is written before the interval has passed."""


@dataclass(frozen=True)
class Entry:
    """A request that waits.

    Attributes:
        at: when it began, seconds since 1970.
        size: bytes that it holds in memory, and that its line has at most.
        line: makes its line from the key that hashes ids, in the writer's thread.
    """

    at: float
    size: int
    line: Callable[[bytes], str]


class RequestLogWriter(ObserverThread):
    """Writes lines.

    Args:
        store: the object store.
        days: how long a line is kept, days.
        interval: time between two writes, seconds.
        queue_bytes: what may wait to be written, bytes.

    Attributes:
        replica: names the files of this process.
    """

    def __init__(
        self,
        store: ObjectStore,
        days: int,
        interval: float,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        super().__init__("request-log")
        self.replica = replica_name()
        self._store, self._days, self._interval = store, days, interval
        self._limit = queue_bytes
        self._key: bytes | None = None
        self._waiting: deque[Entry] = deque()
        self._held = 0
        self._part = 0
        self._outages = Outages("the log of requests is", store)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queue a request; it is dropped if too much waits."""
        with self._changed:
            if self._held + entry.size > self._limit or self._closing:
                metrics.labelled(metrics.REQUEST_LOG, "dropped").inc()
                return
            self._held += entry.size
            self._waiting.append(entry)
            if self._held >= _EARLY_BYTES:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self._interval)
                closing = self._closing
            self._outages.attempt(self._write_what_waits)
            if closing:
                return

    def _is_due(self) -> bool:
        """Whether to write before the interval has passed."""
        return self._closing or (self._held >= _EARLY_BYTES and not self._outages.lasts)

    def _write_what_waits(self) -> None:
        """Write what waits, in files of one hour. What a store does not take waits until it does."""
        while batch := self._batch():
            if self._key is None:
                self._key = hashing_key(self._store, create=True, place=HASHING_KEY)
            assert self._key is not None
            lines, failed = [], 0
            for entry in batch:
                try:
                    lines.append(entry.line(self._key))
                except Exception:
                    failed += 1
                    logger.exception("a request was not logged")
            if lines:
                hour = int(batch[0].at // HOUR_SECONDS)
                # A part that could not be written is replaced, whatever the store has of it.
                self._store.write(log_key(hour, self._days, self.replica, self._part), log_file(lines))
                self._part += 1
            written = set(map(id, batch))
            with self._changed:
                self._waiting = deque(entry for entry in self._waiting if id(entry) not in written)
                self._held -= sum(entry.size for entry in batch)
            metrics.labelled(metrics.REQUEST_LOG, "written").inc(len(lines))
            metrics.labelled(metrics.REQUEST_LOG, "failed").inc(failed)

    def _batch(self) -> list[Entry]:
        """Requests of one hour for one file, the first ones that wait; they go on waiting until they are written."""
        batch: list[Entry] = []
        size = 0
        with self._changed:
            for entry in self._waiting:
                if batch and entry.at // HOUR_SECONDS != batch[0].at // HOUR_SECONDS:
                    continue
                size += entry.size
                if batch and size > PART_BYTES:
                    break
                batch.append(entry)
        return batch
