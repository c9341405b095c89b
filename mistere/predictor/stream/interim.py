"""Interim answers: what the model says of a turn that is still open, about once a second, if the server has nothing else to do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mistere.predictor import metrics
from mistere.predictor.stream.conversation import Conversation
from mistere.predictor.stream.turns import RATE, ChannelSplitter, Cut

_EVERY: Final = RATE
"""Samples of an open turn between two interim answers: a second."""


class InterimAnswers:
    """The interim answers of a stream. One is computed at a time.

    Args:
        splitter: has the open turns.
        conversation: the turns before them.
        texts: the transcripts of open turns, by channel.
        is_idle: whether the server has nothing else to do.
        send: sends a message to the client.
    """

    def __init__(
        self,
        splitter: ChannelSplitter,
        conversation: Conversation,
        texts: Mapping[int, str],
        is_idle: Callable[[], bool],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._splitter, self._conversation, self._texts = splitter, conversation, texts
        self._is_idle, self._send = is_idle, send
        self._seconds: dict[tuple[int, int], int] = {}
        self._turn: tuple[int, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_sending = False

    def update(self) -> None:
        """Drop the answer to a turn that has ended, and begin one to a turn that has grown by a second."""
        open_turns = {(channel, start): length for channel, start, length in self._splitter.open_turns()}
        if self._turn not in open_turns and self._task is not None and not self._is_sending:
            self._task.cancel()
        self._seconds = {turn: self._seconds.get(turn, 0) for turn in open_turns}
        for turn, length in open_turns.items():
            seconds = length // _EVERY
            if seconds > self._seconds[turn]:
                self._seconds[turn] = seconds
                self._begin(turn)

    def close(self) -> None:
        """Drop the answer that is being computed or sent."""
        if self._task is not None:
            self._task.cancel()

    def _begin(self, turn: tuple[int, int]) -> None:
        is_free = self._task is None or self._task.done()
        if not is_free or not self._conversation.is_answered or not self._is_idle():
            metrics.labelled(metrics.INTERIM, "dropped").inc()
            return
        if (cut := self._splitter.so_far(turn[0])) is None:
            return
        self._turn = turn
        self._task = asyncio.create_task(self._answer(cut))

    async def _answer(self, cut: Cut) -> None:
        outcome = "dropped"
        try:
            answer = await self._conversation.interim(cut, self._texts.get(cut.channel, ""))
            self._is_sending = True
            with contextlib.suppress(Exception):  # the client has left: the reading of its messages ends the stream
                await self._send({"type": "interim", **answer})
                outcome = "answered"
        except Exception:  # the answer to the turn tells the client what is wrong
            outcome = "failed"
        finally:
            self._is_sending = False
            metrics.labelled(metrics.INTERIM, outcome).inc()
