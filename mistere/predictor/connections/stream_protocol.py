"""Uvicorn's WebSocket protocol, counted among the connections, with a deadline for clients that do not read.

Delete this when uvicorn limits connections and the time that a client may stall.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from mistere.predictor.connections.registry import Connections, Phase
from mistere.predictor.settings import Limits


class LimitedStreamProtocol(WebSocketsSansIOProtocol):
    """One connection that carries a stream.

    Args:
        connections: all connections of the server.
        limits: seconds that a client may stall.
        arguments: uvicorn's.
    """

    def __init__(self, connections: Connections, limits: Limits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._registry = connections
        self._stall_seconds = limits.body_seconds
        self._stalled: asyncio.TimerHandle | None = None
        self.phase, self.since = Phase.ANSWER, self.loop.time()

    def connection_made(self, transport: BaseTransport) -> None:
        """Count the connection, in the place of the one of its HTTP request."""
        super().connection_made(transport)
        self._registry.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._registry.remove(self)
        self._end_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Read no more from a client that does not read, and give it as long as one that does not send its body."""
        super().pause_writing()
        self.transport.pause_reading()
        self._end_stall()
        self._stalled = self.loop.call_later(self._stall_seconds, self.give_up)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._end_stall()
        if not self.read_paused:
            self.transport.resume_reading()

    def give_up(self) -> None:
        """Close at once, whatever has not been sent."""
        self.transport.abort()

    def _end_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
