"""What is noted of a request for its trace while it is answered.

Noting is appending to a list; the spans are made and sent after the answer (:mod:`mistere.predictor.tracing.span_sender`). While traces
are off, nothing of OpenTelemetry is imported, and no request has a trace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from mistere.predictor.protocol.codec import DialogueRequest

TRACEPARENT: Final = "traceparent"
"""The header of W3C Trace Context, and the gRPC metadata of that name: the caller's trace and span, and whether it is sampled."""


@dataclass(frozen=True)
class TimedPhase:
    """A part of a request's time.

    Attributes:
        name: of the phase.
        began: ``time.perf_counter()``, seconds.
        ended: likewise.
        sizes: counts that explain the time.
    """

    name: str
    began: float
    ended: float
    sizes: Mapping[str, int]


@dataclass
class RequestTrace:
    """A request that is traced.

    Attributes:
        span: the sender's span of the whole request.
        protocol: ``rest_v1``, ``rest_v2``, ``grpc`` or ``stream``.
        wall_ns: when it began, nanoseconds since 1970.
        began: the same moment, ``time.perf_counter()``, seconds.
        phases: what took its time. Threads of batches append to it, too.
        sizes: counts of what was asked.
    """

    span: Any
    protocol: str
    wall_ns: int = field(default_factory=time.time_ns)
    began: float = field(default_factory=time.perf_counter)
    phases: list[TimedPhase] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def nanoseconds(self, moment: float) -> int:
        """A moment of ``time.perf_counter()`` as nanoseconds since 1970."""
        return self.wall_ns + round((moment - self.began) * 1e9)


TRACES: ContextVar[tuple[RequestTrace, ...]] = ContextVar("traces", default=())
"""The traces of the requests that the running code works for: one, or those of a batch; none while traces are off."""


@contextmanager
def working_for(traces: Iterable[Sequence[RequestTrace]]) -> Iterator[None]:
    """What the block does is done for these requests, in a thread or task that is none of theirs."""
    token = TRACES.set(tuple(chain.from_iterable(traces)))
    try:
        yield
    finally:
        TRACES.reset(token)


def note_sizes(dialogues: Sequence[DialogueRequest]) -> None:
    """Note how much was asked."""
    for trace in TRACES.get():
        turns = [turn for dialogue in dialogues for turn in dialogue.turns]
        trace.sizes.update(
            dialogues=len(dialogues),
            utterances=sum(map(len, dialogues)),
            texts=sum(bool(turn.text) for turn in turns),
            recordings=sum(turn.audio is not None or turn.audio_digest is not None for turn in turns),
        )


class Sender(Protocol):
    """Makes spans of traces, and sends them."""

    def begin(self, protocol: str, traceparent: str | None) -> RequestTrace | None:
        """Begin the trace of a request; None if it is not in the sample."""

    def end(self, trace: RequestTrace, code: str, failed: bool, ended: float) -> None:
        """Hand over the trace of an answered request."""

    def close(self) -> None:
        """Send what is left."""


class Tracing:
    """The traces of this process's requests.

    Attributes:
        sender: what sends them; None while they are off.
    """

    def __init__(self) -> None:
        self.sender: Sender | None = None

    def begin(self, protocol: str, traceparent: Callable[[], str | None]) -> RequestTrace | None:
        """Begin the trace of a request in its task.

        Args:
            protocol: ``rest_v1``, ``rest_v2``, ``grpc`` or ``stream``.
            traceparent: reads the caller's header; called while traces are on.

        Returns:
            The trace; None if there is none.
        """
        if self.sender is None:
            return None
        trace = self.sender.begin(protocol, traceparent())
        TRACES.set(() if trace is None else (trace,))
        return trace

    def end(self, trace: RequestTrace | None, code: str, failed: bool) -> None:
        """End the trace of a request. Its spans are made once the response is on its way.

        Args:
            trace: as :meth:`begin` returned it.
            code: REST code or gRPC status.
            failed: whether the server failed, not the client.
        """
        if trace is not None and self.sender is not None:
            TRACES.set(())
            asyncio.get_running_loop().call_soon(self.sender.end, trace, code, failed, time.perf_counter())

    def close(self) -> None:
        """Send what is left, and switch the traces off."""
        if self.sender is not None:
            self.sender.close()
        self.sender = None


TRACING: Final = Tracing()
