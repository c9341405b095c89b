"""The page's microphone: two scripts, and a WebSocket that hands its sound to the predictor and the answers back.

The page may contact its own server only, and a predictor need not be reachable from the browser.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from mistere.serving.protocol import AUDIO, TEXT_SOURCE

if TYPE_CHECKING:
    from starlette.websockets import WebSocket
    from websockets.asyncio.client import ClientConnection

SOCKET_PATH: Final = "/live/stream"
SCRIPT_TAG: Final = '<script src="/live/page.js" defer></script>'
_TEMPLATES: Final = Path(__file__).parent / "templates"
_SCRIPTS: Final = {"/live/page.js": "live.js", "/live/worklet.js": "live_worklet.js"}
_MOST_ANSWER: Final = 1 << 20
"""Bytes of a message of the predictor."""
_UNREACHABLE: Final = (1013, "The predictor does not answer: try again in a few seconds.")
_LOST: Final = (1011, "The connection to the predictor was lost: start the microphone again.")


@dataclass(frozen=True)
class LiveAudio:
    """What the predictor of a page answers live.

    Attributes:
        url: its stream, ``ws://host:port/v1/stream``.
        has_interim: whether it also answers turns that are still open.
    """

    url: str
    has_interim: bool


def live_audio(url: str, metadata: Mapping[str, Any]) -> LiveAudio | None:
    """The stream of a predictor; None if it serves none, or reads no audio.

    Args:
        url: its address for REST.
        metadata: of the model, as the endpoint states it.
    """
    properties = metadata.get("properties", {})
    names = {str(tensor.get("name")) for side in ("inputs", "outputs") for tensor in metadata.get(side, ())}
    has_speech = bool(properties.get("encoder_digest.speech"))
    if AUDIO not in names or properties.get("option.max_streams", "0") == "0":
        return None
    if not has_speech and TEXT_SOURCE not in names:
        return None
    parts = urlsplit(url)
    scheme = parts.scheme.replace("http", "ws")
    return LiveAudio(urlunsplit((scheme, parts.netloc, f"{parts.path.rstrip('/')}/v1/stream", "", "")), has_speech)


def script(path: str) -> bytes | None:
    """The script at a path; None if there is none."""
    name = _SCRIPTS.get(path)
    return None if name is None else (_TEMPLATES / name).read_bytes()


async def relay(socket: WebSocket, url: str) -> None:
    """Hand the messages of a page to the predictor, and its answers back, until one side closes.

    Args:
        socket: the page's, not accepted yet.
        url: of the predictor's stream.
    """
    from starlette.websockets import WebSocketDisconnect
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidURI
    from websockets.frames import CloseCode

    await socket.accept()
    closing = _UNREACHABLE
    try:
        async with connect(url, max_size=_MOST_ANSWER, compression=None, ping_timeout=None) as predictor:
            up, down = asyncio.create_task(_up(socket, predictor)), asyncio.create_task(_down(predictor, socket))
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            has_left = up.done() and up.exception() is None
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            if has_left:
                return
            lost = predictor.close_code in (None, CloseCode.NO_STATUS_RCVD, CloseCode.ABNORMAL_CLOSURE)
            closing = _LOST if lost else (int(predictor.close_code or 0), str(predictor.close_reason))
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI):
        pass
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the page has left meanwhile
        await socket.close(*closing)


async def _up(socket: WebSocket, predictor: ClientConnection) -> None:
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        content = message.get("bytes")
        await predictor.send(message["text"] if content is None else content)


async def _down(predictor: ClientConnection, socket: WebSocket) -> None:
    async for message in predictor:
        await socket.send_text(str(message))
