"""What is noted of a request while it is answered, for its trace and for the log of requests.

Noting is appending to a list; the spans are made and sent after the answer (:mod:`mistere.predictor.tracing.span_sender`), and so is the
line of the log (:mod:`mistere.predictor.request_log`). While both are off, nothing of OpenTelemetry is imported, and nothing is noted.
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
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.errors import RequestError
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
    """A request that is traced, or logged.

    It holds nothing large: the context of a task that serves all requests keeps the first one for good.

    Attributes:
        span: the sender's span of the whole request; None if it is logged alone.
        protocol: ``rest_v1``, ``rest_v2``, ``grpc`` or ``stream``.
        wall_ns: when it began, nanoseconds since 1970.
        began: the same moment, ``time.perf_counter()``, seconds.
        phases: what took its time. Threads of batches append to it, too.
        sizes: counts of what was asked.
        logged: whether a line of the log is written of it.
        identity: its id; empty until it is known.
        bytes: of its body; 0 until they are known.
        dialogue_id: the client's id of the dialogue.
        flags: of its options, those that are set.
        predictions: the answer.
    """

    span: Any
    protocol: str
    wall_ns: int = field(default_factory=time.time_ns)
    began: float = field(default_factory=time.perf_counter)
    phases: list[TimedPhase] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    logged: bool = False
    identity: str = ""
    bytes: int = 0
    dialogue_id: str = ""
    flags: tuple[str, ...] = ()
    predictions: Sequence[DialoguePrediction] = ()

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


def note_request(identity: str, size: int) -> None:
    """Note the id of the request and the bytes of its body."""
    for trace in TRACES.get():
        trace.identity, trace.bytes = identity, size


def note_dialogues(dialogues: Sequence[DialogueRequest], transcribes: bool) -> None:
    """Note how much was asked, and how.

    Args:
        dialogues: of the request.
        transcribes: whether the model transcribes, unless the request declines.
    """
    for trace in TRACES.get():
        turns = [turn for dialogue in dialogues for turn in dialogue.turns]
        trace.sizes.update(
            dialogues=len(dialogues),
            utterances=sum(map(len, dialogues)),
            texts=sum(bool(turn.text) for turn in turns),
            recordings=sum(turn.audio is not None or turn.audio_digest is not None for turn in turns),
        )
        first = dialogues[0]
        trace.dialogue_id = first.dialogue_id
        flags = {name: getattr(first, name) for name in ("consent", "detail", "explain", "transcribe")}
        flags["transcribe"] &= transcribes
        flags["vectors"] = bool(first.embeddings)
        trace.flags = tuple(name for name, is_set in flags.items() if is_set)


def note_answer(predictions: Sequence[DialoguePrediction]) -> None:
    """Note the answer, for the log."""
    for trace in TRACES.get():
        if trace.logged:
            trace.predictions = predictions


class Sender(Protocol):
    """Makes spans of traces, and sends them."""

    def begin(self, protocol: str, traceparent: str | None) -> RequestTrace | None:
        """Begin the trace of a request; None if it is not in the sample."""

    def end(self, trace: RequestTrace, code: str, failed: bool, ended: float) -> None:
        """Hand over the trace of an answered request."""

    def close(self) -> None:
        """Send what is left."""


class Log(Protocol):
    """Writes lines of requests."""

    def wants(self) -> bool:
        """Whether the next request is in the sample."""

    def add(self, trace: RequestTrace, code: str, error: str, ended: float) -> None:
        """Hand over an answered request; never raises."""


class Tracing:
    """The traces of this process's requests, and the log of them.

    Attributes:
        sender: what sends the traces; None while they are off.
        log: what writes the log; None while it is off.
    """

    def __init__(self) -> None:
        self.sender: Sender | None = None
        self.log: Log | None = None

    def begin(self, protocol: str, traceparent: Callable[[], str | None]) -> RequestTrace | None:
        """Begin the trace of a request in its task.

        Args:
            protocol: ``rest_v1``, ``rest_v2``, ``grpc`` or ``stream``.
            traceparent: reads the caller's header; called while traces are on.

        Returns:
            The trace; None if it is neither traced nor logged.
        """
        if self.sender is None and self.log is None:
            return None
        trace = None if self.sender is None else self.sender.begin(protocol, traceparent())
        if self.log is not None and self.log.wants():
            trace = trace or RequestTrace(None, protocol)
            trace.logged = True
        TRACES.set(() if trace is None else (trace,))
        return trace

    def end(
        self, trace: RequestTrace | None, code: str, failed: bool, identity: str = "", error: RequestError | None = None
    ) -> None:
        """End the trace of a request. Its spans and its line are made once the response is on its way.

        Args:
            trace: as :meth:`begin` returned it.
            code: REST code or gRPC status.
            failed: whether the server failed, not the client.
            identity: of the request, unless it was noted.
            error: why it was refused, or failed.
        """
        if trace is not None:
            TRACES.set(())
            trace.identity = trace.identity or identity
            sentence = "" if error is None else error.without_contents
            asyncio.get_running_loop().call_soon(self._end, trace, code, failed, sentence, time.perf_counter())

    def _end(self, trace: RequestTrace, code: str, failed: bool, error: str, ended: float) -> None:
        if trace.span is not None and self.sender is not None:
            self.sender.end(trace, code, failed, ended)
        if trace.logged and self.log is not None:
            self.log.add(trace, code, error, ended)

    def close(self) -> None:
        """Send what is left of the traces, and switch traces and log off."""
        if self.sender is not None:
            self.sender.close()
        self.sender = self.log = None


TRACING: Final = Tracing()
