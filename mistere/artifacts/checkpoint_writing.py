"""When a checkpoint within an epoch is due, and the thread that writes checkpoints while training continues."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Literal

AFFECTS_RESULTS = False
"""A resumed training has the result of an uninterrupted one, so when and where a checkpoint is written changes no result."""

LARGEST_SHARE: Final = 0.02
"""The largest share of the time that automatic checkpoints cost."""
BYTES_PER_SECOND: Final = 10e6
"""The largest average rate at which checkpoints between epochs are written: 700 MB every 70 s. A write that the operating system
buffers takes less time than the disk needs for it."""
_FIRST_SECONDS: Final = 60.0
"""On a cluster, time until the first checkpoint, whose cost is not known before."""
_SHORTEST_SECONDS: Final = 30.0
"""Shortest automatic interval on a cluster, however small the checkpoints are."""
_LOCAL_SECONDS: Final = 600.0
"""Automatic interval outside a cluster, where a stopped process has time to write a checkpoint."""


class CheckpointSchedule:
    """Decides when the next checkpoint within an epoch is due.

    Inside a cluster a step is killed without a grace period: Kubeflow's launcher dies of SIGTERM, and the kernel kills the
    step's process 0.2 s later (Kubeflow Pipelines 2.17.0). The automatic interval there is as short as the measured cost of a
    checkpoint allows.

    Args:
        seconds: the interval, or ``auto``.
        on_cluster: whether this process runs in a pod.
        clock: seconds of a monotonic clock.
        first: on a cluster, seconds until the first checkpoint; None for a minute.
        shortest: on a cluster, the shortest automatic interval in seconds; None for half a minute.
    """

    def __init__(
        self,
        seconds: float | Literal["auto"],
        *,
        on_cluster: bool,
        clock: Callable[[], float] = time.monotonic,
        first: float | None = None,
        shortest: float | None = None,
    ) -> None:
        self._seconds, self._on_cluster, self._clock = seconds, on_cluster, clock
        self._first = _FIRST_SECONDS if first is None else first
        self._shortest = _SHORTEST_SECONDS if shortest is None else shortest
        self._cost, self._size = 0.0, 0
        self._last = clock()

    @classmethod
    def bounded(cls) -> CheckpointSchedule:
        """As often as cost and size allow, at once at first: for checkpoints between epochs, which may take milliseconds."""
        return cls("auto", on_cluster=True, first=0.0, shortest=0.0)

    @property
    def interval(self) -> float:
        """Seconds from the start of a checkpoint to the start of the next one."""
        if self._seconds != "auto":
            return self._seconds
        if not self._on_cluster:
            return _LOCAL_SECONDS
        if not self._cost:
            return self._first
        return max(self._shortest, self._cost / LARGEST_SHARE, self._size / BYTES_PER_SECOND)

    def is_due(self) -> bool:
        """Whether the interval has passed since the last checkpoint."""
        return self._clock() - self._last >= self.interval

    def began(self) -> None:
        """A checkpoint is being made now."""
        self._last = self._clock()

    def measured(self, seconds: float, size: int = 0) -> None:
        """A checkpoint of ``size`` bytes cost ``seconds``: the pause of the training, and the writing.

        Without a size, the rate of writing is not bounded.
        """
        self._cost, self._size = max(seconds, 1e-6), size


class BackgroundWriter:
    """Runs one write at a time in a thread; an error of a write is raised at the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a write is in progress."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write, after the previous one has ended."""
        self.wait()

        def run() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the write in progress has ended; raises its error."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
