"""Batch concurrent requests: requests that arrive together are computed together; an idle server computes at once.

One batch is computed at a time. Requests that arrive meanwhile wait in a bounded queue and form the next batch, up to a number of
utterances and a price; a request over the bound is answered with 429. Where not all fit, cheap requests go first, and expensive ones
after a bounded time. A batch is delayed, at most by ``hold_seconds``, in two cases:

- while accepted requests are still being read and parsed;
- under load, right after another batch, while requests keep arriving: clients that were just answered often send the next request
  at once, and computing them together is faster than one after another.

A request that finds the server idle is never delayed. Cancelled requests are dropped from the queue.

Batches run in one worker thread. Batches that have been fast so far run on the event loop: under load, in a thread their many
small operations would contend with it for the GIL and take about four times as long; without load, only very fast ones do, and save
the way to the thread and back. ``mistere bench serve`` and ``mistere bench serving_speed`` (part ``throughput``) measure the gain. Delete this path when the predictor runs on a Python without the GIL.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from mistere.predictor import metrics
from mistere.predictor.errors import overloaded
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.tracing.request_trace import TRACES, RequestTrace

Work = TypeVar("Work")
Answer = TypeVar("Answer")

_MAX_INLINE_SECONDS = 0.02
"""Longest average computation that may run on the event loop, which serves no other request meanwhile."""
_MAX_IDLE_SECONDS = 0.01
"""The same while the server is not under load."""
_LOAD_THRESHOLD = 1.5
"""Average number of concurrent requests above which the server is under load."""
_BATCH_SECONDS = 0.15
"""Time that the encoders should take for a batch: so long a request that arrives meanwhile waits."""
_LEAST_BATCH = 16.0
"""The smallest batch, in seconds of audio."""


@dataclass
class _Job(Generic[Work, Answer]):
    work: Work
    size: int
    price: float
    enqueued: float
    answer: asyncio.Future[Answer]
    traces: Sequence[RequestTrace]


class Batcher(Generic[Work, Answer]):
    """Collect work into batches and compute them. Only the computation may leave the event loop's thread.

    Args:
        compute: computes a batch; returns an answer or an exception for each item, in order.
        max_waiting: the most items that may wait in the queue, besides those being computed.
        hold_seconds: longest delay of a batch, seconds; 0 never delays.
        micro_batch: the most utterances in a batch; a larger item is a batch on its own. 0 computes every item alone.
        may_run_inline: whether an item is of a kind that may be fast enough for the event loop.
        pace: the machine's pace, for the price of a batch.
        max_price: the most that may wait, seconds of audio; one request may always wait.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Work]], Sequence[Answer | Exception]],
        max_waiting: int,
        hold_seconds: float,
        micro_batch: int,
        may_run_inline: Callable[[Work], bool] = lambda work: False,
        pace: Pace | None = None,
        max_price: float = math.inf,
    ) -> None:
        self._pace, self._max_price = pace or Pace(), max_price
        self._compute, self._may_run_inline = compute, may_run_inline
        self._max_waiting, self._hold_seconds, self._micro_batch = max_waiting, hold_seconds, micro_batch
        self._queue: list[_Job[Work, Answer]] = []
        self._computing = 0
        self._being_read = 0
        self._arrival = asyncio.Event()
        self._last_batch_ended = 0.0
        # Exponential moving averages: seconds of an item (for Retry-After), seconds of a batch that may run inline, and
        # concurrent requests. They follow a change of load within a few batches and need no history.
        self._item_seconds = 0.05
        self._inline_seconds = math.inf
        self._load = 1.0
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    @property
    def depth(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._queue) + self._computing

    def warm_up(self, compute: Callable[[], object]) -> None:
        """Run a computation in the worker thread at start, because the first one in a thread is slower."""
        self._thread.submit(compute).result()

    def check(self, price: float = 0.0) -> None:
        """Reject a request, before its body is read or once its price is known.

        Args:
            price: what it costs, seconds of audio.

        Raises:
            RequestError: the queue is full.
        """
        waiting = sum(job.price for job in self._queue)
        if len(self._queue) + bool(self._computing) > self._max_waiting or (
            self._queue and waiting + price > self._max_price
        ):
            raise overloaded(max(1, math.ceil(self.depth * self._item_seconds)))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Mark an accepted request as being read, so that the next batch may wait for it."""
        self._being_read += 1
        try:
            yield
        finally:
            self._being_read -= 1
            self._arrival.set()

    async def run(self, work: Work, size: int, price: float = 0.0, admitted: bool = False) -> Answer:
        """Queue an item and await its answer. If the caller is cancelled while the item waits, the item is dropped.

        Args:
            work: the item.
            size: number of its utterances.
            price: what encoding it costs, seconds of audio.
            admitted: do not check the bounds of the queue, for a request that was admitted before.

        Raises:
            RequestError: the queue is full.
        """
        if not admitted:
            self.check(price)
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._serve())
        job: _Job[Work, Answer] = _Job(work, size, price, time.perf_counter(), loop.create_future(), TRACES.get())
        self._queue.append(job)
        self._arrival.set()
        return await job.answer

    async def _serve(self) -> None:
        while True:
            while not self._queue:
                self._arrival.clear()
                await self._arrival.wait()
            await self._gather()
            batch = self._take()
            if batch:
                await self._answer(batch)
                self._load += 0.25 * (len(batch) + len(self._queue) - self._load)
                self._last_batch_ended = time.perf_counter()

    async def _gather(self) -> None:
        """Delay a batch that has room for requests that are being read and, under load, for those that keep arriving."""
        first = max(self._queue[0].enqueued, self._last_batch_ended)
        under_load = self._load > _LOAD_THRESHOLD and first - self._last_batch_ended < self._hold_seconds
        while self._micro_batch and self._has_room():
            now = time.perf_counter()
            left = self._queue[0].enqueued + self._hold_seconds - now if self._being_read else 0.0
            if under_load:  # until a fifth of the delay passes without an arrival
                latest = min(first + self._hold_seconds, self._queue[-1].enqueued + self._hold_seconds / 5)
                left = max(left, latest - now)
            if left <= 0:
                break
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                break

    def _has_room(self) -> bool:
        return sum(job.size for job in self._queue) < self._micro_batch

    def _take(self) -> list[_Job[Work, Answer]]:
        """The next batch; without the requests whose client has disconnected."""
        waiting = [job for job in self._queue if not job.answer.done()]
        room = self._pace.price_within(_BATCH_SECONDS, _LEAST_BATCH)
        if sum(job.price for job in waiting) > room:
            waiting.sort(key=lambda job: self._pace.turn(job.enqueued, job.price))
        batch: list[_Job[Work, Answer]] = []
        size, price = 0, 0.0
        for job in waiting:
            if batch and (size + job.size > self._micro_batch or price + job.price > room):
                break
            batch.append(job)
            size += job.size
            price += job.price
        self._queue = waiting[len(batch) :]
        return batch

    async def _answer(self, batch: list[_Job[Work, Answer]]) -> None:
        self._computing = len(batch)
        start = time.perf_counter()
        for job in batch:
            metrics.observe_phase("queue", job.enqueued, start, job.traces)
        try:
            answers = await self._answers([job.work for job in batch])
        finally:
            self._computing = 0
            self._item_seconds += 0.2 * ((time.perf_counter() - start) / len(batch) - self._item_seconds)
        for job, answer in zip(batch, answers, strict=True):
            if job.answer.done():
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)

    async def _answers(self, works: Sequence[Work]) -> Sequence[Answer | Exception]:
        if not all(map(self._may_run_inline, works)):
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._computed, works)
        bound = _MAX_INLINE_SECONDS if self._load > _LOAD_THRESHOLD else _MAX_IDLE_SECONDS
        if self._inline_seconds <= bound:
            answers, seconds = self._timed(works)
        else:
            answers, seconds = await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, works)
        average = self._inline_seconds if math.isfinite(self._inline_seconds) else seconds
        self._inline_seconds = average + 0.2 * (seconds - average)
        return answers

    def _timed(self, works: Sequence[Work]) -> tuple[Sequence[Answer | Exception], float]:
        """Compute a batch and measure this thread's CPU seconds, which leave out waiting for other threads."""
        start = time.thread_time()
        return self._computed(works), time.thread_time() - start

    def _computed(self, works: Sequence[Work]) -> Sequence[Answer | Exception]:
        """Compute a batch; if it fails as a whole, compute each item alone, so that one bad request fails alone."""
        try:
            return self._compute(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
            return [answer for work in works for answer in self._computed([work])]

    def close(self) -> None:
        """Finish the running batch and drop the waiting ones."""
        self._thread.shutdown(wait=True, cancel_futures=True)
