"""Encode long requests slice by slice in a thread of lower priority, so that small requests do not wait for them.

One worker thread takes a few utterances, then looks anew at who is next: a cheaper request goes before the rest of a long one. The
operating system gives the thread, and those that it starts, a core only where nobody else needs it: the threads that answer small
requests run beside a slice without waiting for its end. ``mistere bench serving_speed`` (part ``fairness``) measures it.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from mistere.predictor.errors import overloaded
from mistere.predictor.scheduling.pace import Pace

_SLICE_SECONDS: Final = 0.5
"""Time that a slice should take."""
_LEAST_SLICE: Final = 8.0
"""The smallest slice, in seconds of audio: even less would leave batches of the encoder half empty."""
_NICENESS: Final = 5
"""Where both want a core, a quarter of its time is for the slices, and the rest for small requests. More would be to the cost of long
requests on a machine where other programs run, too; priority that is given up cannot be taken back."""


class Priced(Protocol):
    """A part of a request."""

    @property
    def price(self) -> float:
        """Its price, seconds of audio."""

    @property
    def is_needless(self) -> bool:
        """Whether it need not be computed any more, because another part of the request has failed."""


Part = TypeVar("Part", bound=Priced)


@dataclass(eq=False)
class _Job(Generic[Part]):
    parts: list[Part]
    arrival: float
    price: float
    done: asyncio.Future[None]


class SliceQueue(Generic[Part]):
    """Computes the parts of long requests in slices.

    Args:
        compute: computes parts, of one or several requests; called in the worker thread.
        pace: the machine's pace, which decides how large a slice is.
        max_price: the most that may wait, seconds of audio; one request may always wait.

    Attributes:
        max_price: may be changed at any time; it counts for the next request.
    """

    def __init__(self, compute: Callable[[Sequence[Part]], None], pace: Pace, max_price: float) -> None:
        self._compute, self._pace, self.max_price = compute, pace, max_price
        self._jobs: list[_Job[Part]] = []
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slices", initializer=_lower_priority)

    @property
    def depth(self) -> int:
        """Requests that are not encoded yet."""
        return len(self._jobs)

    def warm_up(self, compute: Callable[[], object]) -> None:
        """Run a computation in the worker thread at start, because the first one in a thread is slower."""
        self._thread.submit(compute).result()

    async def run(self, parts: Sequence[Part]) -> None:
        """Compute all parts of a request. If the caller is cancelled, those not begun are dropped.

        Raises:
            RequestError: too much waits already.
        """
        if not parts:
            return
        loop = asyncio.get_running_loop()
        price = sum(part.price for part in parts)
        waiting = sum(job.price for job in self._jobs)
        if self._jobs and waiting + price > self.max_price:
            raise overloaded(max(1, math.ceil(self._pace.seconds(waiting))))
        # Parts of similar price share a batch of the encoder without much padding.
        job = _Job(sorted(parts, key=lambda part: part.price), loop.time(), price, loop.create_future())
        self._jobs.append(job)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve())
        try:
            await job.done
        finally:
            with suppress(ValueError):
                self._jobs.remove(job)

    async def _serve(self) -> None:
        while self._jobs:
            chosen = self._next_slice()
            error = await self._computed([part for parts in chosen.values() for part in parts])
            for job, parts in chosen.items():
                failure = error
                if error is not None and len(chosen) > 1:  # one bad request fails alone
                    failure = await self._computed(parts)
                job.parts = [part for part in job.parts if not part.is_needless]
                job.price = sum(part.price for part in job.parts)
                if failure is not None or not job.parts:
                    self._settle(job, failure)

    async def _computed(self, parts: Sequence[Part]) -> Exception | None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, parts)
        except Exception as error:
            return error
        return None

    def _settle(self, job: _Job[Part], error: Exception | None = None) -> None:
        with suppress(ValueError):  # cancelled, and gone already
            self._jobs.remove(job)
        if job.done.done():
            return
        if error is None:
            job.done.set_result(None)
        else:
            job.done.set_exception(error)

    def _next_slice(self) -> dict[_Job[Part], list[Part]]:
        """Take the next parts: those of the request whose turn it is, and of the following ones where there is room."""
        room = self._pace.price_within(_SLICE_SECONDS, _LEAST_SLICE)
        chosen: dict[_Job[Part], list[Part]] = {}
        for job in sorted(self._jobs, key=lambda job: self._pace.turn(job.arrival, job.price)):
            while job.parts and (not chosen or job.parts[0].price <= room):
                part = job.parts.pop(0)
                room -= part.price
                job.price -= part.price
                chosen.setdefault(job, []).append(part)
            if job.parts:
                break
        return chosen

    def close(self) -> None:
        """Finish the running slice and drop the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _lower_priority() -> None:
    """Lower the priority of this thread, and of those that it starts; Linux has one for each thread."""
    with suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
