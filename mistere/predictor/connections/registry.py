"""The open REST connections. At the limit, a new connection replaces the one that has waited longest for its client."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from mistere.predictor import metrics


class Phase(IntEnum):
    """What a connection waits for, in the order in which connections are given up for new ones."""

    DRAIN = 0
    """The client to close: it has its response, and what it still sends is discarded."""
    IDLE = 1
    """The client's next request."""
    HEAD = 2
    """The rest of a request's head."""
    BODY = 3
    """The rest of a body."""
    ANSWER = 4
    """The server; never given up."""


class Connection(Protocol):
    """A connection as the registry sees it."""

    phase: Phase
    since: float
    """Time at which the phase began, seconds."""

    def give_up(self) -> None:
        """Close at once."""


class Connections:
    """The open connections.

    Args:
        limit: the most of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def add(self, connection: Connection) -> bool:
        """Add a connection. At the limit, the one that has waited longest for its client, in the earliest phase, is closed.

        Returns:
            False if every open connection waits for the server, so that there is no room.
        """
        if len(self._open) >= self._limit:
            longest = min(self._open, key=lambda each: (each.phase, each.since))
            if longest.phase is Phase.ANSWER:
                metrics.labelled(metrics.CLOSED, "refused").inc()
                return False
            self.remove(longest)
            longest.give_up()
            metrics.labelled(metrics.CLOSED, "replaced").inc()
        self._open.add(connection)
        metrics.CONNECTIONS.set(len(self._open))
        return True

    def remove(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self._open.discard(connection)
        metrics.CONNECTIONS.set(len(self._open))
