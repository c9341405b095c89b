"""Which part of which stream a request is, for whatever counts or keeps answers."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_DIGEST_BYTES: Final = 12


@dataclass(frozen=True)
class StreamOrigin:
    """A stream's request, whose first turn is a later one with time, because it holds only the latest turns.

    Attributes:
        stream: random bytes that name the stream.
        first: number of the request's first turn in the stream.
        interim: whether the last turn is still open. Such an answer is counted nowhere, and nothing of its request is kept.
    """

    stream: bytes
    first: int
    interim: bool = False

    def turns(self, count: int) -> list[bytes]:
        """Names of the request's turns, the same in every request that has them.

        Args:
            count: the number of turns.
        """
        numbers = range(self.first, self.first + count)
        return [
            blake2b(self.stream + number.to_bytes(8, "big"), digest_size=_DIGEST_BYTES).digest() for number in numbers
        ]


ORIGIN: ContextVar[StreamOrigin | None] = ContextVar("stream_origin", default=None)
"""The origin of the request that the running code answers; None for one that came as a whole."""
