"""The control messages of a stream, as JSON objects with a ``type``, and the errors that end a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import orjson

from mistere.predictor.errors import RequestError, printable
from mistere.predictor.protocol.parameters import read_parameters
from mistere.predictor.stream.turns import RATE

MAX_MESSAGE_BYTES: Final = 1 << 18
"""Limit of a message: 8 s of one channel."""
MAX_CHANNELS: Final = 8
_MAX_TEXT: Final = 4096
"""Characters of a transcript."""
PCM, OPUS = "pcm16", "opus"
"""Encodings of the audio."""


class CloseCode(IntEnum):
    """Why a stream is closed (RFC 6455, section 7.4.1)."""

    DONE = 1000
    GOING_AWAY = 1001
    UNSUPPORTED = 1003
    LEFT = 1006
    """Never sent: the client has left without ``end``."""
    POLICY = 1008
    TOO_LARGE = 1009
    INTERNAL = 1011
    TRY_LATER = 1013


@dataclass
class StreamError(Exception):
    """Ends a stream.

    Attributes:
        code: the close code.
        message: one sentence for the client.
    """

    code: CloseCode
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Start:
    """The first message of a stream.

    Attributes:
        model: the model's name; empty for the only one.
        channels: speakers, one a channel.
        parameters: those of a V1 request: ``detail``, ``transcribe``, ``consent``, ``dialogue_id``.
        interim: whether open turns are answered, too, about once a second.
        encoding: of the audio.
    """

    model: str = ""
    channels: int = 1
    parameters: dict[str, Any] = field(default_factory=dict)
    interim: bool = False
    encoding: str = PCM


@dataclass(frozen=True)
class Transcript:
    """The text of a turn: of an answered one, or of the open or next turn of a channel."""

    text: str
    channel: int = 0
    turn: int | None = None


@dataclass(frozen=True)
class EndTurn:
    """End the open turn of a channel without waiting for silence."""

    channel: int = 0


@dataclass(frozen=True)
class End:
    """The last message: answer the open turns, then close."""


Message = Start | Transcript | EndTurn | End
_FIELDS: Final = {
    "start": {"model", "channels", "rate", "encoding", "parameters", "interim"},
    "transcript": {"text", "channel", "turn"},
    "end_turn": {"channel"},
    "end": set[str](),
}


def parse_message(text: str, channels: int) -> Message:
    """Parse a control message.

    Args:
        text: the message.
        channels: those of the stream; ``start`` may name others.

    Raises:
        StreamError: it is malformed.
    """
    try:
        content = orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise StreamError(CloseCode.UNSUPPORTED, "A text message must be a JSON object.") from error
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise StreamError(CloseCode.POLICY, f"A message needs a type: {', '.join(_FIELDS)}.")
    if unknown := sorted(content.keys() - _FIELDS[kind] - {"type"}):
        known = ", ".join(sorted(_FIELDS[kind])) or "none"
        raise StreamError(CloseCode.POLICY, f"Unknown field {printable(unknown[0], 20)!r} of {kind}; known: {known}.")
    if kind == "start":
        return _start(content)
    if kind == "end":
        return End()
    channel = _number(content, "channel", 0, 0, channels - 1)
    if kind == "end_turn":
        return EndTurn(channel)
    words = content.get("text")
    if not isinstance(words, str) or len(words) > _MAX_TEXT:
        raise StreamError(
            CloseCode.POLICY, f"The text of a transcript must be a string of at most {_MAX_TEXT} characters."
        )
    turn = None if content.get("turn") is None else _number(content, "turn", 0, 0, 1 << 40)
    return Transcript(words, channel, turn)


def _start(content: dict[str, Any]) -> Start:
    model = content.get("model", "")
    if not isinstance(model, str):
        raise StreamError(CloseCode.POLICY, "The field model must be a string.")
    encoding = content.get("encoding", PCM)
    if encoding not in (PCM, OPUS) or (encoding == PCM and content.get("rate", RATE) != RATE):
        raise StreamError(
            CloseCode.UNSUPPORTED,
            f"Send {PCM} at {RATE} Hz (signed 16-bit integers, little-endian) or {OPUS} (a packet a message).",
        )
    try:
        parameters = read_parameters(content.get("parameters"), "a stream")
    except RequestError as error:
        raise StreamError(CloseCode.POLICY, error.message) from error
    interim = content.get("interim", False)
    if not isinstance(interim, bool):
        raise StreamError(CloseCode.POLICY, "The field interim must be true or false.")
    return Start(model, _number(content, "channels", 1, 1, MAX_CHANNELS), dict(parameters), interim, encoding)


def _number(content: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = content.get(name, default)
    if type(value) is not int or not least <= value <= most:  # not isinstance, for which bool is an int
        raise StreamError(CloseCode.POLICY, f"The field {name} must be an integer from {least} to {most}.")
    return value
