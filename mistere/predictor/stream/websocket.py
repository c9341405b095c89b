"""``/v1/stream``: a stream over WebSocket, next to REST on its port."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from mistere.predictor.connections.web_pages import WebPages
from mistere.predictor.stream.messages import CloseCode
from mistere.predictor.stream.session import Receive, Send
from mistere.predictor.stream.streams import ClientLeftError, Streams
from mistere.predictor.tracing.request_trace import TRACEPARENT

STREAM_PATH: Final = "/v1/stream"
_MAX_REASON: Final = 123
"""Bytes of the reason in a close frame."""


class WebSocketStreams:
    """Serves streams over WebSocket.

    Args:
        streams: all streams of the server.
        pages: the web pages that may open a stream.
    """

    def __init__(self, streams: Streams, pages: WebPages) -> None:
        self._streams, self._pages = streams, pages

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection."""
        if not self._pages.may_stream(socket.headers.get("origin"), socket.headers.get("host", "")):
            await socket.close()  # before it is accepted: 403
            return
        await socket.accept()
        ended = await self._streams.serve(_receive(socket), _send(socket), socket.headers.get(TRACEPARENT))
        if ended is None:
            return
        code, reason = ended
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has disconnected
            await socket.close(int(code), reason.encode()[:_MAX_REASON].decode(errors="ignore"))


def _receive(socket: WebSocket) -> Receive:
    async def receive() -> bytes | str:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            too_large = message.get("code") == CloseCode.TOO_LARGE
            raise ClientLeftError(CloseCode.TOO_LARGE if too_large else CloseCode.LEFT)
        content: bytes | None = message.get("bytes")
        return str(message["text"]) if content is None else content

    return receive


def _send(socket: WebSocket) -> Send:
    async def send(message: dict[str, Any]) -> None:
        try:
            await socket.send_text(orjson.dumps(message).decode())
        except WebSocketDisconnect as left:
            raise ClientLeftError from left

    return send
