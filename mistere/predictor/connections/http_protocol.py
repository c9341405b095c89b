"""Uvicorn's HTTP protocol with a deadline for each phase of a connection, and a limit on the number of connections.

Uvicorn limits only the time between two requests, and forgets that limit at the first byte of the next one: a client that never
finishes its head keeps a descriptor for as long as it likes, and one that sends a head without end fills the memory. Delete this when
uvicorn has a deadline and a size for the head, and a limit on connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mistere.predictor import metrics
from mistere.predictor.connections.registry import Connections, Phase
from mistere.predictor.errors import RequestError, full, large_head, slow_head
from mistere.predictor.settings import Limits

_MARGIN: Final = 5.0
"""Seconds for the application to answer a slow body itself, and for a closed connection to send what it still holds."""
_MAX_HEAD: Final = 1 << 16
"""Bytes of a head, and of all trailers after a chunked body; uvicorn keeps both in memory as they arrive."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        connections: all connections of the server.
        limits: seconds for a head, for a body, and between requests.
        arguments: uvicorn's.
    """

    def __init__(self, connections: Connections, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._registry = connections
        self._seconds: Mapping[Phase, float] = {
            Phase.IDLE: limits.idle_seconds,
            Phase.HEAD: limits.head_seconds,
            Phase.BODY: limits.body_seconds + _MARGIN,
        }
        self._stall_seconds = limits.body_seconds
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._refused = False
        self._head_begun = False
        self._outside_body = 0
        self.phase, self.since = Phase.HEAD, 0.0

    def _enter(self, phase: Phase) -> None:
        self._cancel(self._deadline)
        self.phase, self.since = phase, self.loop.time()
        seconds = self._seconds.get(phase)
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._expire)

    @staticmethod
    def _cancel(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection; its head must arrive in time, from the first moment on."""
        super().connection_made(transport)
        if self._registry.add(self):
            self._enter(Phase.HEAD)
        else:
            self._refused = True
            self._close_with(full())

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its deadlines."""
        self._registry.remove(self)
        self._cancel(self._deadline)
        self._cancel(self._stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; the first byte after a response starts the deadline of the next head."""
        if self._refused:
            return
        if self.phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        self._outside_body += len(data)
        super().data_received(data)
        if self._outside_body > _MAX_HEAD and not self.transport.is_closing():
            self._refused = True
            metrics.labelled(metrics.CLOSED, "large").inc()
            if self._is_answering():
                self.give_up()
            else:
                self._close_with(large_head(_MAX_HEAD))

    def on_message_begin(self) -> None:
        """Remember that a part of a head is there, which may come while an earlier request is answered."""
        self._head_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin the deadline of the body."""
        self._head_begun = False
        self._enter(Phase.BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count again from 0 the bytes of a head or of trailers, which come without a body between them."""
        self._outside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the deadline of the body."""
        self._outside_body = 0
        super().on_message_complete()
        self._enter(Phase.ANSWER if self._is_answering() else Phase.IDLE)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless a part of it, or the rest of this one, is awaited already."""
        super().on_response_complete()
        if self.phase is Phase.ANSWER and not self._is_answering():
            self._enter(Phase.HEAD if self._head_begun else Phase.IDLE)

    def pause_writing(self) -> None:
        """Give a client that does not read its response as long as one that does not send its body."""
        super().pause_writing()
        self._cancel(self._stalled)
        self._stalled = self.loop.call_later(self._stall_seconds, self.give_up)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._cancel(self._stalled)

    def give_up(self) -> None:
        """Close at once, whatever has not been sent."""
        self.transport.abort()

    def _expire(self) -> None:
        if self.transport.is_closing():  # the client does not read what is still to be sent
            self.give_up()
        elif self._is_answering():  # the application answers a slow body itself
            self._deadline = self.loop.call_later(_MARGIN, self._expire)
        else:
            metrics.labelled(metrics.CLOSED, self.phase.name.lower()).inc()
            if self.phase is Phase.HEAD:
                self._close_with(slow_head(self._seconds[Phase.HEAD]))
            else:
                self.transport.close()
            self._deadline = self.loop.call_later(_MARGIN, self.give_up)

    def _close_with(self, error: RequestError) -> None:
        body = orjson.dumps({"error": error.message})
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [
            f"HTTP/1.1 {error.code} {HTTPStatus(error.code).phrase}",
            *(f"{k}: {v}" for k, v in (headers | error.headers).items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()
