"""The open streams, whatever carries their messages: how many there may be, how they end, and what is counted of them."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from mistere.predictor import metrics
from mistere.predictor.errors import as_request_error
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.settings import Limits
from mistere.predictor.stream.messages import CloseCode, StreamError
from mistere.predictor.stream.session import Receive, Send, StreamSession


@dataclass
class ClientLeftError(Exception):
    """The client has disconnected; raised by what receives and sends messages.

    Attributes:
        code: the close code to count.
    """

    code: CloseCode = CloseCode.LEFT


class Streams:
    """Serves streams, up to a limit.

    Args:
        data_plane: answers requests.
        limits: limits of a request, and of streams.
    """

    def __init__(self, data_plane: PredictorDataPlane, limits: Limits) -> None:
        self._data_plane, self._limits = data_plane, limits
        self._stopping = asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()

    async def drain(self, seconds: float) -> None:
        """Refuse new streams, answer the turns of the open ones, and close them.

        Args:
            seconds: the longest wait.
        """
        self._stopping.set()
        if self._open:
            await asyncio.wait(set(self._open), timeout=seconds)

    async def serve(self, receive: Receive, send: Send, traceparent: str | None) -> tuple[CloseCode, str] | None:
        """Serve one stream in the current task.

        Args:
            receive: returns the client's next message.
            send: sends a message to the client.
            traceparent: the client's header of that name.

        Returns:
            The code and the sentence to close it with; None if the client has left.
        """
        task = asyncio.current_task()
        assert task is not None
        code, reason = CloseCode.LEFT, ""  # counted if the task is cancelled
        try:
            if self._stopping.is_set():
                raise StreamError(CloseCode.TRY_LATER, "The server stops: open the stream again.")
            if len(self._open) >= self._limits.streams:
                raise StreamError(
                    CloseCode.TRY_LATER,
                    f"The server has its {self._limits.streams} streams already: try again in a few seconds.",
                )
            self._open.add(task)
            metrics.STREAMS.set(len(self._open))
            await StreamSession(self._data_plane, self._limits, receive, send, traceparent).run(self._stopping)
            code = CloseCode.DONE
        except StreamError as error:
            code, reason = error.code, error.message
        except ClientLeftError as left:
            code = left.code
            return None
        except asyncio.CancelledError:
            code = CloseCode.GOING_AWAY if self._stopping.is_set() else CloseCode.LEFT
            raise
        except Exception as error:
            failure = as_request_error(error, str(uuid.uuid4()), self._limits.utterance_seconds)
            code, reason = CloseCode.INTERNAL, failure.message
        finally:
            self._open.discard(task)
            metrics.STREAMS.set(len(self._open))
            metrics.labelled(metrics.STREAMS_CLOSED, str(int(code))).inc()
        return code, reason
