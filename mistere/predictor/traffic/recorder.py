"""Counts what the predictor answers, by hour, and writes the hours to the store from a thread of its own.

A store that fails or is slow delays no answer: counting adds to an array in memory, and only the thread writes.
"""

from __future__ import annotations

import logging
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from mistere.artifacts.object_store import ObjectStore
from mistere.predictor.scheduling.observer_thread import ObserverThread
from mistere.serving.traffic.figures import TOTAL_POSITIONS, Counts, Figures
from mistere.serving.traffic.files import HOUR_SECONDS, counts_file, hour_name, traffic_key

logger = logging.getLogger("kserve.predictor")

MOST_HOURS: Final = 48
"""Hours that are kept while the store fails; the oldest are lost."""
_NOTHING: Final = np.zeros(0, np.int64)


def replica_name() -> str:
    """A name of this process: the host's, and random letters, because a restarted container has the same host name."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:63].strip(".-") or "host"
    return f"{host}-{secrets.token_hex(4)}"


class TrafficRecorder(ObserverThread):
    """The counts of one bundle.

    Args:
        figures: of the bundle.
        digest: of the bundle.
        store: where the hours are written; None for nowhere.
        interval: time between two writes, seconds.
        clock: seconds since 1970.
        replica: names the files of this process.
    """

    def __init__(
        self,
        figures: Figures,
        digest: str = "",
        store: ObjectStore | None = None,
        interval: float = 60.0,
        clock: Callable[[], float] = time.time,
        replica: str | None = None,
    ) -> None:
        super().__init__("traffic")
        self.figures = figures
        self.failures = 0
        self.written_at = 0.0
        self._digest, self._store, self._interval, self._clock = digest, store, interval, clock
        self._replica = replica or replica_name()
        self._total = figures.empty()
        self._hours: dict[int, np.ndarray] = {}
        self._unwritten: set[int] = set()
        self._lock = threading.Lock()
        if store is not None:
            self._thread.start()

    @property
    def total(self) -> Counts:
        """The counts since the start."""
        with self._lock:
            return Counts(self.figures, self._total.values.copy())

    def add(
        self, positions: Sequence[np.ndarray | list[int]], totals: Mapping[str, int], pairs: np.ndarray | None = None
    ) -> None:
        """Count.

        Args:
            positions: positions in the array that count 1 more, each as often as it occurs.
            totals: what the figure ``total`` counts more, by key.
            pairs: what the figure ``label_pairs`` counts more ``[C, 3]``; None for nothing.
        """
        every = np.concatenate([np.asarray(each, np.int64) for each in positions]) if positions else _NOTHING
        counted = np.bincount(every, minlength=self.figures.size)
        for key, count in totals.items():
            counted[TOTAL_POSITIONS[key]] += count
        if pairs is not None:
            counted[TOTAL_POSITIONS["pairs"]] += pairs[0].sum()
            Counts(self.figures, counted).table("label_pairs")[:] += pairs
        hour = int(self._clock() // HOUR_SECONDS)
        with self._lock:
            targets = [self._total.values]
            if self._store is not None:
                targets.append(self._hour(hour))
            for values in targets:
                values += counted

    def _hour(self, hour: int) -> np.ndarray:
        self._unwritten.add(hour)
        values = self._hours.get(hour)
        if values is None:
            values = self._hours[hour] = self.figures.empty().values
            while len(self._hours) > MOST_HOURS:
                lost = min(self._hours)
                del self._hours[lost]
                self._unwritten.discard(lost)
                logger.warning(
                    "the traffic of the hour %s is lost, because the store has failed since", hour_name(lost)
                )
        return values

    def flush(self) -> bool:
        """Write every hour with new counts; returns whether all were written."""
        store = self._store
        if store is None:
            return True
        with self._lock:
            pending = {hour: self._hours[hour].copy() for hour in sorted(self._unwritten)}
            self._unwritten.clear()
        current = int(self._clock() // HOUR_SECONDS)
        for hour, values in pending.items():
            try:
                content = counts_file(Counts(self.figures, values))
                store.write(traffic_key(self._digest, hour, self._replica), content)
            except Exception as error:  # of any library of the store; an endpoint without statistics still answers
                self.failures += 1
                logger.warning("the traffic was not written to %s (%s)", store.uri, str(error) or type(error).__name__)
                with self._lock:
                    self._unwritten.update(each for each in pending if each >= hour and each in self._hours)
                return False
            with self._lock:
                if hour < current - 1 and hour not in self._unwritten:  # the last one may still be counted to
                    self._hours.pop(hour, None)  # it may have been lost meanwhile
        self.written_at = self._clock()
        return True

    def _run(self) -> None:
        self._repeat(self._interval, self.flush)
