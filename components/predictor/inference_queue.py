"""One computation at a time in a thread of its own, with a bounded line in front of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from components.predictor import metrics
from components.predictor.errors import overloaded

T = TypeVar("T")


class InferenceQueue:
    """Runs work off the event loop, in the order it came.

    Args:
        waiting: how many may wait beside the one that is computed.
    """

    def __init__(self, waiting: int) -> None:
        self._waiting = waiting
        self._depth = 0
        self._mean_seconds = 0.05
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    @property
    def depth(self) -> int:
        """Requests accepted and not yet answered."""
        return self._depth

    def check(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            RequestError: the line is full.
        """
        if self._depth > self._waiting:
            raise overloaded(max(1, math.ceil(self._depth * self._mean_seconds)))

    async def run(self, work: Callable[[], T]) -> T:
        """Wait for one's turn and compute. A caller who is cancelled while waiting leaves the line.

        Raises:
            RequestError: the line is full.
        """
        self.check()
        loop = asyncio.get_running_loop()
        entered = time.perf_counter()
        self._change(1)

        def measured() -> T:
            start = time.perf_counter()
            metrics.PHASES.labels("queue").observe(start - entered)
            try:
                return work()
            finally:
                self._mean_seconds += 0.2 * (time.perf_counter() - start - self._mean_seconds)

        future = self._thread.submit(measured)
        future.add_done_callback(
            lambda _: loop.call_soon_threadsafe(self._change, -1) if not loop.is_closed() else None
        )
        return await asyncio.wrap_future(future)

    def _change(self, by: int) -> None:
        self._depth += by
        metrics.QUEUE_DEPTH.set(self._depth)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._thread.shutdown(wait=True, cancel_futures=True)
