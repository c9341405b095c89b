"""``/v1/stream``: a stream over WebSocket, next to REST on its port."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from mistere.predictor import metrics
from mistere.predictor.errors import as_request_error
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.settings import Limits
from mistere.predictor.stream.messages import CloseCode, StreamError
from mistere.predictor.stream.session import StreamSession
from mistere.predictor.tracing.request_trace import TRACEPARENT

STREAM_PATH: Final = "/v1/stream"
_MAX_REASON: Final = 123
"""Bytes of the reason in a close frame."""


class Streams:
    """The open streams.

    Args:
        data_plane: answers requests.
        limits: limits of a request, and of streams.
        origins: web pages of other hosts that may open a stream.
    """

    def __init__(self, data_plane: PredictorDataPlane, limits: Limits, origins: tuple[str, ...]) -> None:
        self._data_plane, self._limits, self._origins = data_plane, limits, origins
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

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection."""
        if not self._is_allowed(socket.headers.get("origin"), socket.headers.get("host", "")):
            await socket.close()  # before it is accepted: 403
            return
        await socket.accept()
        code, reason = CloseCode.GOING_AWAY, ""  # as long as only a stop can cancel it
        task = asyncio.current_task()
        assert task is not None
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
            session = StreamSession(
                self._data_plane, self._limits, _receive(socket), _send(socket), socket.headers.get(TRACEPARENT)
            )
            await session.run(self._stopping)
            code = CloseCode.DONE
        except StreamError as error:
            code, reason = error.code, error.message
        except WebSocketDisconnect as left:
            code = CloseCode.TOO_LARGE if left.code == CloseCode.TOO_LARGE else CloseCode.LEFT
            return
        except Exception as error:
            failure = as_request_error(error, str(uuid.uuid4()), self._limits.utterance_seconds)
            code, reason = CloseCode.INTERNAL, failure.message
        finally:
            self._open.discard(task)
            metrics.STREAMS.set(len(self._open))
            metrics.labelled(metrics.STREAMS_CLOSED, str(int(code))).inc()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has disconnected
            await socket.close(int(code), reason.encode()[:_MAX_REASON].decode(errors="ignore"))

    def _is_allowed(self, origin: str | None, host: str) -> bool:
        """Whether a web page may open a stream: browsers let every page open WebSockets to every host, also to local ones."""
        if origin is None or origin in self._origins:
            return True
        try:
            return urlsplit(origin).netloc == host
        except ValueError:  # of http://[
            return False


def _receive(socket: WebSocket) -> Any:
    async def receive() -> bytes | str:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        content: bytes | str | None = message.get("bytes")
        return message["text"] if content is None else content

    return receive


def _send(socket: WebSocket) -> Any:
    async def send(message: dict[str, Any]) -> None:
        await socket.send_text(orjson.dumps(message).decode())

    return send
