"""Uvicorn's HTTP protocol with a deadline for each phase of a connection, and a limit on the number of connections.

Uvicorn limits only the time between two requests, and forgets that limit at the first byte of the next one: a client that never
finishes its head keeps a descriptor for as long as it likes, and one that sends a head without end fills the memory. It also closes
a connection at once when a response ends it early. If the client is still sending, the kernel then resets the connection, and the
client sees the reset instead of the response. Delete this when uvicorn has a deadline and a size for the head, a limit on connections,
and reads the rest of a request before it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mistere.predictor import metrics
from mistere.predictor.connections.registry import Connections, Phase
from mistere.predictor.connections.upgrade import UpgradeIgnoringParser
from mistere.predictor.errors import RequestError, full, large_head, malformed_http, slow_head
from mistere.predictor.settings import Limits

_MARGIN: Final = 5.0
"""Seconds for the application to answer a slow body itself, and for a closed connection to send what it still holds."""
_MAX_HEAD: Final = 1 << 16
"""Bytes of a head, and of all trailers after a chunked body; uvicorn keeps both in memory as they arrive."""
_DISCARDED_BODIES: Final = 8
"""Bodies of the largest size that are read and discarded after an early response, before the connection is closed."""


class _ResponseTransport:
    """The transport as the response to one request sees it: closing it reads the rest of the request first.

    Args:
        connection: the connection.
        cycle: the request and its response.
    """

    def __init__(self, connection: LimitedHttpProtocol, cycle: RequestResponseCycle) -> None:
        self._connection, self._cycle = connection, cycle

    def write(self, data: bytes) -> None:
        """Send a part of the response, unless the connection has ended."""
        if not self.is_closing():
            self._connection.transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._connection.phase is Phase.DRAIN or self._connection.transport.is_closing()

    def close(self) -> None:
        """Close the connection; if the client is still sending the request, once it has finished."""
        self._connection.end(still_sending=self._cycle.more_body)


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        connections: all connections of the server.
        limits: seconds for a head, for a body, and between requests.
        arguments: uvicorn's.
    """

    def __init__(self, connections: Connections, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.parser = UpgradeIgnoringParser(self)
        self._registry = connections
        self._seconds: Mapping[Phase, float] = {
            Phase.IDLE: limits.idle_seconds,
            Phase.HEAD: limits.head_seconds,
            Phase.BODY: limits.body_seconds + _MARGIN,
        }
        self._stall_seconds = limits.body_seconds
        self._max_discarded = _DISCARDED_BODIES * limits.request_bytes
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._head_begun = False
        self._outside_body = 0
        self._discarded = 0
        self._upgraded = False
        self.phase, self.since = Phase.HEAD, 0.0

    def _enter(self, phase: Phase, seconds: float | None = None) -> None:
        self._cancel(self._deadline)
        self.phase, self.since = phase, self.loop.time()
        seconds = self._seconds.get(phase) if seconds is None else seconds
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
            self._write_error(full())
            self.transport.close()  # it is not counted, so it must not stay open

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its deadlines."""
        self._registry.remove(self)
        self._cancel(self._deadline)
        self._cancel(self._stalled)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; the first byte after a response starts the deadline of the next head."""
        if self.phase is Phase.DRAIN:
            self._discard(len(data))
            return
        if self.phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        self._outside_body += len(data)
        super().data_received(data)
        if self._upgraded:
            return
        if self._outside_body > _MAX_HEAD and not self.transport.is_closing():
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
        if self._is_parsed_again() or self._becomes_stream():
            return
        self._head_begun = False
        self._discarded = 0
        self._enter(Phase.BODY)
        super().on_headers_complete()
        self.cycle.transport = _ResponseTransport(self, self.cycle)  # type: ignore[assignment]

    def _is_parsed_again(self) -> bool:
        return isinstance(self.parser, UpgradeIgnoringParser) and self.parser.offers_upgrade()

    def accepts_upgrade(self) -> bool:
        """Whether the request opens a stream, and streams are served."""
        return self._should_upgrade() and self.parser.get_method() == b"GET"

    def _becomes_stream(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.accepts_upgrade()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the protocol of streams."""
        if self._is_answering():  # the answer to the request before would be sent into the stream
            self.give_up()
            return
        self._upgraded = True
        self._cancel(self._deadline)
        self._cancel(self._stalled)
        self._registry.remove(self)
        self.scope["method"] = "GET"
        super().handle_websocket_upgrade()

    def on_body(self, body: bytes) -> None:
        """Count again from 0 the bytes of a head or of trailers, which come without a body between them."""
        self._outside_body = 0
        if self._becomes_stream():
            return
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the deadline of the body."""
        if self._is_parsed_again() or self._becomes_stream():
            return
        self._outside_body = 0
        super().on_message_complete()
        self._enter(Phase.ANSWER if self._is_answering() else Phase.IDLE)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless a part of it, or the rest of this one, is awaited already."""
        if self.phase is Phase.DRAIN:
            return
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

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP as every other error."""
        self._close_with(malformed_http())

    def give_up(self) -> None:
        """Close at once, whatever has not been sent."""
        self.transport.abort()

    def end(self, still_sending: bool) -> None:
        """Close after a response.

        Args:
            still_sending: whether a part of the request is still to come.
        """
        if still_sending:
            self._drain(self._stall_seconds)
        else:
            self.transport.close()

    def _drain(self, seconds: float) -> None:
        """Send no more, and discard what arrives until the client closes, so that it can read the response; then close."""
        if self.transport.is_closing() or self.phase is Phase.DRAIN:
            return
        if self._is_answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.pipeline.clear()
        self._discarded = 0
        self._enter(Phase.DRAIN, seconds)
        with contextlib.suppress(OSError):  # the client has disconnected
            self.transport.write_eof()
        self.flow.resume_reading()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > self._max_discarded and not self.transport.is_closing():
            metrics.labelled(metrics.CLOSED, "large").inc()
            self.transport.close()

    def _expire(self) -> None:
        if self.transport.is_closing() or self.phase is Phase.DRAIN:  # the client does not read, or does not close
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
        """Answer outside the application, and close once the client has had time to read the answer."""
        self._write_error(error)
        self._drain(_MARGIN)

    def _write_error(self, error: RequestError) -> None:
        body = orjson.dumps({"error": error.message})
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [
            f"HTTP/1.1 {error.code} {HTTPStatus(error.code).phrase}",
            *(f"{k}: {v}" for k, v in (headers | error.headers).items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
