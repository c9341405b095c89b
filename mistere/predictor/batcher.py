"""Requests that arrive together are computed together; one that finds the server idle is computed at once.

One batch is computed at a time, in a thread; in a crowd, one of brief works alone, by experience, on the event loop itself: its
hundreds of small operations would each wait for the interpreter, which the loop holds for everybody else, and take four times
as long. While a batch is computed, whoever arrives waits in a bounded line, and what has gathered there is the next batch, up to a number of utterances.
A batch is held back, never longer than a bound, while other accepted requests are still being read, and in a crowd, right after
another batch, while one after another still arrives: those who were just answered often ask again, and are better computed
together than one behind the other. A request that finds the server idle is never held back. Whoever has gone before his turn
costs nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from mistere.predictor import metrics
from mistere.predictor.errors import overloaded

Work = TypeVar("Work")
Answer = TypeVar("Answer")

_BRIEF = 0.02
"""Seconds that the event loop may be kept from its callers by a computation."""
_CROWD = 1.5
"""Callers at a time, on average of late, from which on it is a crowd."""


@dataclass
class _Job(Generic[Work, Answer]):
    work: Work
    size: int
    entered: float
    answer: asyncio.Future[Answer]


class Batcher(Generic[Work, Answer]):
    """Groups work and computes it off the event loop. Everything but the computation runs on the loop's thread.

    Args:
        compute: answers a batch, one answer or exception for each work, in order.
        waiting: how many may wait beside those that are computed.
        hold_seconds: longest time that a batch is held back for requests that are still being read; 0 never holds.
        most_utterances: of a batch; a larger work is a batch of its own. 0 computes every work alone.
        brief: whether a work is of the kind that may turn out to be brief.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Work]], Sequence[Answer | Exception]],
        waiting: int,
        hold_seconds: float,
        most_utterances: int,
        brief: Callable[[Work], bool] = lambda work: False,
    ) -> None:
        self._compute, self._brief = compute, brief
        self._brief_seconds = math.inf
        self._waiting, self._hold, self._most = waiting, hold_seconds, most_utterances
        self._line: deque[_Job[Work, Answer]] = deque()
        self._computing = 0
        self._being_read = 0
        self._arrival = asyncio.Event()
        self._mean_seconds = 0.05
        self._ended = 0.0
        self._crowd = 1.0
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    @property
    def depth(self) -> int:
        """Requests accepted and not yet answered."""
        return len(self._line) + self._computing

    def warm_up(self, compute: Callable[[], object]) -> None:
        """Compute something beforehand, in the thread that will compute: the first time in a thread takes longer."""
        self._thread.submit(compute).result()

    def check(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            RequestError: the line is full.
        """
        if len(self._line) + bool(self._computing) > self._waiting:
            raise overloaded(max(1, math.ceil(self.depth * self._mean_seconds)))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the reading of a request that has been accepted, so that a batch may wait for it a little."""
        self._being_read += 1
        try:
            yield
        finally:
            self._being_read -= 1
            self._arrival.set()

    async def run(self, work: Work, size: int) -> Answer:
        """Wait for one's turn and the answer. A caller who is cancelled while waiting leaves the line.

        Args:
            work: what is computed.
            size: its utterances.

        Raises:
            RequestError: the line is full.
        """
        self.check()
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._task = loop.create_task(self._serve())
        job: _Job[Work, Answer] = _Job(work, size, time.perf_counter(), loop.create_future())
        self._line.append(job)
        self._arrival.set()
        self._tell()
        return await job.answer

    async def _serve(self) -> None:
        while True:
            while not self._line:
                self._arrival.clear()
                await self._arrival.wait()
            await self._gather()
            batch = self._take()
            if batch:
                await self._answer(batch)
                self._crowd += 0.25 * (len(batch) + len(self._line) - self._crowd)
                self._ended = time.perf_counter()

    async def _gather(self) -> None:
        """Hold a batch back for requests that are being read, and for those that arrive in a row, while there is room."""
        first = max(self._line[0].entered, self._ended)
        crowd = self._crowd > _CROWD and first - self._ended < self._hold
        while self._most and self._room():
            now = time.perf_counter()
            left = self._line[0].entered + self._hold - now if self._being_read else 0.0
            if crowd:
                left = max(left, min(first + self._hold, self._line[-1].entered + self._hold / 5) - now)
            if left <= 0:
                break
            self._arrival.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrival.wait()
            except TimeoutError:
                break

    def _room(self) -> bool:
        return sum(job.size for job in self._line) < self._most

    def _take(self) -> list[_Job[Work, Answer]]:
        batch: list[_Job[Work, Answer]] = []
        size = 0
        while self._line and (not batch or (size + self._line[0].size <= self._most)):
            job = self._line.popleft()
            if not job.answer.done():  # its caller is still there
                batch.append(job)
                size += job.size
        return batch

    async def _answer(self, batch: list[_Job[Work, Answer]]) -> None:
        self._computing = len(batch)
        self._tell()
        start = time.perf_counter()
        for job in batch:
            metrics.labelled(metrics.PHASES, "queue").observe(start - job.entered)
        try:
            answers = await self._answers([job.work for job in batch])
        finally:
            self._computing = 0
            self._mean_seconds += 0.2 * ((time.perf_counter() - start) / len(batch) - self._mean_seconds)
            self._tell()
        for job, answer in zip(batch, answers, strict=True):
            if job.answer.done():
                continue
            if isinstance(answer, Exception):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)

    async def _answers(self, works: Sequence[Work]) -> Sequence[Answer | Exception]:
        if not all(map(self._brief, works)):
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._computed, works)
        if self._crowd > _CROWD and self._brief_seconds <= _BRIEF:
            answers, seconds = self._timed(works)
        else:
            answers, seconds = await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, works)
        known = self._brief_seconds if math.isfinite(self._brief_seconds) else seconds
        self._brief_seconds = known + 0.2 * (seconds - known)
        return answers

    def _timed(self, works: Sequence[Work]) -> tuple[Sequence[Answer | Exception], float]:
        """The answers, and the processor's seconds that this thread took: waiting for other threads is not counted."""
        start = time.thread_time()
        return self._computed(works), time.thread_time() - start

    def _computed(self, works: Sequence[Work]) -> Sequence[Answer | Exception]:
        """The answers; where a batch fails as a whole, each alone, so that nobody pays for another one's request."""
        try:
            return self._compute(works)
        except Exception as error:
            if len(works) == 1:
                return [error]
            return [answer for work in works for answer in self._computed([work])]

    def _tell(self) -> None:
        metrics.QUEUE_DEPTH.set(self.depth)

    def close(self) -> None:
        """Finish what runs, drop what waits."""
        self._thread.shutdown(wait=True, cancel_futures=True)
