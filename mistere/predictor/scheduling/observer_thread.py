"""Threads that write what was observed of answers to a store, and how they end when the server stops."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from mistere.artifacts.object_store import ObjectStore

logger = logging.getLogger("kserve.predictor")

CLOSE_SECONDS: Final = 8.0
"""Longest wait for the last writes of all threads together; Kubernetes kills the pod some seconds later."""


class ObserverThread(ABC):
    """A thread that works until it is asked to end. A subclass starts it with ``self._thread.start()`` once all that it reads is there.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def _run(self) -> None:
        """Work until ``_closing``, then write what is left."""

    def _ends_within(self, seconds: float) -> bool:
        """Wait; whether the thread is to end."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closing, seconds)

    def _repeat(self, seconds: float, work: Callable[[], object]) -> None:
        """Do something regularly, and once more at the end; what it raises is logged, and it is tried again."""
        ends = False
        while not ends:
            ends = self._ends_within(seconds)
            try:
                work()
            except Exception:  # the thread is all that writes: the next attempt must come
                logger.exception("the thread %s failed and goes on", self._thread.name)

    def end(self) -> None:
        """Ask the thread to write what is left and to end, without waiting for it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the end at most so long; what is not written by then is lost with the process."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what is left, and wait for it at most so long."""
        self.end()
        self.join(seconds)


def close_all(threads: Sequence[ObserverThread], seconds: float) -> None:
    """Let all threads write what is left at the same time, so that a store that hangs costs the others nothing.

    Args:
        threads: to end.
        seconds: the longest wait for all of them.
    """
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.join(deadline - time.monotonic())


class Outages:
    """Logs that writing to a store fails, and that it works again: once each.

    Args:
        what: is written, with the verb: ``sampled dialogues are``.
        store: the object store.

    Attributes:
        lasts: whether the last attempt failed.
    """

    def __init__(self, what: str, store: ObjectStore) -> None:
        self._what, self._store = what, store
        self.lasts = False

    def attempt(self, work: Callable[[], object]) -> bool:
        """Do something with the store; returns whether it worked. The first failure of several is logged."""
        try:
            work()
        except Exception as error:  # of any library of the store; an endpoint that writes nothing still answers
            if not self.lasts:
                reason = str(error) or type(error).__name__
                logger.warning("%s not written to %s (%s)", self._what, self._store.uri, reason)
            self.lasts = True
            return False
        if self.lasts:
            logger.info("%s written to %s again", self._what, self._store.uri)
        self.lasts = False
        return True
