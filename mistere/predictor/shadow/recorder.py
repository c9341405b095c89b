"""Keeps the counts of comparisons by hour, and writes them to the store from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from mistere.artifacts.object_store import ObjectStore
from mistere.predictor.scheduling.observer_thread import ObserverThread
from mistere.predictor.traffic.recorder import replica_name
from mistere.serving.shadow.figures import ShadowCounts
from mistere.serving.shadow.files import shadow_file, shadow_key
from mistere.serving.traffic.files import HOUR_SECONDS

logger = logging.getLogger("kserve.predictor")

MOST_HOURS: Final = 48
"""Hours of all shadows together that are kept while the store fails; the oldest are lost."""


class ShadowRecorder(ObserverThread):
    """The counts of one predictor and the shadows that it has had.

    Args:
        digest: of the bundle in front.
        labels: of the bundle in front.
        store: where the hours are written.
        interval: time between two writes, seconds.
        days: how long an hour is kept in the store, days.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        digest: str,
        labels: tuple[str, ...],
        store: ObjectStore,
        interval: float,
        days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__("shadow-writer")
        self._digest, self._labels, self._store = digest, labels, store
        self._interval, self._days, self._clock = interval, days, clock
        self._replica = replica_name()
        self._hours: dict[tuple[int, str], ShadowCounts] = {}
        self._unwritten: set[tuple[int, str]] = set()
        self._lock = threading.Lock()
        self._thread.start()

    def change(self, digest: str, labels: tuple[str, ...], change: Callable[[ShadowCounts], object]) -> None:
        """Change the counts of the present hour.

        Args:
            digest: of the shadow's bundle.
            labels: of the shadow's bundle.
            change: receives the counts; brief, because it holds the lock.
        """
        key = int(self._clock() // HOUR_SECONDS), digest
        with self._lock:
            self._unwritten.add(key)
            counts = self._hours.get(key)
            if counts is None:
                counts = self._hours[key] = ShadowCounts(self._labels, labels)
                while len(self._hours) > MOST_HOURS:
                    lost = min(self._hours)
                    del self._hours[lost]
                    self._unwritten.discard(lost)
            change(counts)

    def flush(self) -> bool:
        """Write every hour with new counts; returns whether all were written."""
        with self._lock:
            pending = {key: self._hours[key].snapshot() for key in sorted(self._unwritten)}
            self._unwritten.clear()
        current = int(self._clock() // HOUR_SECONDS)
        for key, counts in pending.items():
            hour, digest = key
            try:
                name = shadow_key(self._digest, digest, hour, self._replica, self._days)
                self._store.write(name, shadow_file(counts))
            except Exception as error:  # of any library of the store; an endpoint without a comparison still answers
                reason = str(error) or type(error).__name__
                logger.warning("the comparison with the shadow was not written to %s (%s)", self._store.uri, reason)
                with self._lock:
                    self._unwritten.update(one for one in pending if one >= key and one in self._hours)
                return False
            with self._lock:
                if hour < current - 1 and key not in self._unwritten:
                    self._hours.pop(key, None)  # it may have been lost meanwhile
        return True

    def _run(self) -> None:
        self._repeat(self._interval, self.flush)
