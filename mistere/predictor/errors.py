"""Error responses: one sentence, one REST status code and one gRPC status.

An error response never names a class, a path or a source line. Unexpected exceptions become one neutral sentence with the request
id; the log has the details under that id.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from dataclasses import dataclass, field, replace

from mistere.common.counting import counted, plural
from mistere.common.errors import MistereError
from mistere.data.recordings.formats import names as audio_formats
from mistere.serving import protocol

logger = logging.getLogger("kserve.predictor")
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_QUOTED = re.compile(r"""(?<!\w)'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\b[0-9a-fA-F]{16,}\b""", re.DOTALL)
"""What a sentence quotes: a Python literal, or a digest."""
_OWN_WORDS = frozenset(
    value
    for name, value in vars(protocol).items()
    if name.isupper() and isinstance(value, str) and value.isidentifier()
)
"""Names of tensors, fields and parameters of the protocol."""


@dataclass
class RequestError(Exception):
    """An error response.

    Attributes:
        message: one sentence for the client.
        code: REST status code.
        status: name of the gRPC status.
        headers: additional REST headers.
        plain: the sentence for logs, if the message holds anything of the request other than in quotes, or nothing of it at all. It
            is logged as it is.
    """

    message: str
    code: int = 400
    status: str = "INVALID_ARGUMENT"
    headers: dict[str, str] = field(default_factory=dict)
    plain: str = ""

    @property
    def without_contents(self) -> str:
        """The sentence with ``…`` for what it quotes of the request; a word of the protocol stays, whoever wrote it."""
        return self.plain or _QUOTED.sub(_own_word, self.message)

    def __str__(self) -> str:
        return self.message


def invalid(message: str) -> RequestError:
    """Malformed body, wrong shape or datatype, unknown tensor, NaN, wrong digest."""
    return RequestError(message)


def _own_word(quoted: re.Match[str]) -> str:
    return quoted[0] if quoted[0][1:-1] in _OWN_WORDS else "…"


def own_words(message: str) -> RequestError:
    """As :func:`invalid`, for a message in which nothing comes from the request."""
    return RequestError(message, plain=message)


def unsupported_audio(utterance: int) -> RequestError:
    """Audio that does not decode, or a codec that is not accepted."""
    return RequestError(
        f"The audio of utterance {utterance} does not decode, or its codec is not accepted: send {audio_formats()}.",
        415,
    )


def audio_too_long(utterance: int, seconds: float) -> RequestError:
    """An utterance that exceeds the limit after decoding."""
    return over_limit(f"The audio of utterance {utterance} is longer than {seconds:g} {plural(seconds, 'second')}.")


def over_limit(message: str) -> RequestError:
    """A request that exceeds one of the server's limits."""
    return RequestError(message, 413, "RESOURCE_EXHAUSTED")


def body_too_large(size: int) -> RequestError:
    """A REST body above the limit; its rest is not read, so the connection ends."""
    return replace(over_limit(f"A request may have {size} bytes; this one has more."), headers={"Connection": "close"})


def decoded_body_too_large(size: int) -> RequestError:
    """A compressed REST body that is above the limit once it is decompressed."""
    return over_limit(f"A request may have {size} bytes; this one has more after decompression.")


def unsupported_coding() -> RequestError:
    """A REST body in a content coding other than gzip and deflate."""
    return RequestError(
        "The Content-Encoding of the body is not accepted: send gzip or deflate, or an uncompressed body.",
        415,
        headers={"Accept-Encoding": "gzip, deflate"},
    )


def unknown_model() -> RequestError:
    """An unknown model."""
    return RequestError("No model of that name is served here.", 404, "NOT_FOUND")


def unknown_version(served: str) -> RequestError:
    """A version of the model other than the served one."""
    return RequestError(f"That version of the model is not served here; version {served} is.", 404, "NOT_FOUND")


def unknown_digests(missing: dict[int, str]) -> RequestError:
    """Audio digests, by utterance, whose clips this server does not hold."""
    named = ", ".join(f"{utterance} ({digest})" for utterance, digest in missing.items())
    return RequestError(
        f"This server does not hold the audio of these utterances; send it again: {named}.",
        409,
        "FAILED_PRECONDITION",
        plain=f"This server does not hold the audio of {counted(len(missing), 'utterance')}.",
    )


def overloaded(retry_after: int) -> RequestError:
    """The queue is full."""
    return RequestError(
        f"The server is busy; try again in {retry_after} s.",
        429,
        "RESOURCE_EXHAUSTED",
        {"Retry-After": str(retry_after)},
    )


def not_ready() -> RequestError:
    """The model is loading, or the server is stopping."""
    return RequestError("The model is not ready.", 503, "UNAVAILABLE", {"Retry-After": "5"})


def audio_unavailable(utterance: int) -> RequestError:
    """The object store of an ``audio_uri`` does not answer; the same request may succeed later."""
    return RequestError(
        f"The audio_uri of utterance {utterance} cannot be read at the moment; try again later.",
        503,
        "UNAVAILABLE",
        {"Retry-After": "5"},
    )


def slow_body(seconds: float) -> RequestError:
    """A body that does not arrive in time."""
    return RequestError(f"The request's body did not arrive within {seconds:g} s.", 408, "DEADLINE_EXCEEDED")


def slow_head(seconds: float) -> RequestError:
    """A request whose head does not arrive in time."""
    return RequestError(f"The request's head did not arrive within {seconds:g} s.", 408, "DEADLINE_EXCEEDED")


def large_head(size: int) -> RequestError:
    """A request whose head exceeds the limit."""
    return RequestError(f"The request's head is larger than {size} bytes.", 431, "RESOURCE_EXHAUSTED")


def malformed_http() -> RequestError:
    """Bytes that are not HTTP/1.1."""
    return invalid("The request is not valid HTTP/1.1.")


def full() -> RequestError:
    """All connections wait for answers, so that none can be closed for a new one."""
    return RequestError("The server has no room for another connection.", 503, "UNAVAILABLE", {"Retry-After": "5"})


def internal(request_id: str) -> RequestError:
    """Any other error."""
    message = f"The server could not answer this request; its id is {request_id}."
    return RequestError(message, 500, "INTERNAL", plain="The server could not answer this request.")


def unreadable(utterance: int, modality: str, problem: str) -> RequestError:
    """An utterance whose value of a modality cannot be used."""
    what, reason = f"The {modality} of utterance {utterance} cannot be read", problem.rstrip(".")
    return RequestError(f"{what}: {reason[:1].lower()}{reason[1:]}.", plain=f"{what}.")


def no_numbers(utterance: int, modality: str) -> RequestError:
    """An utterance of which an encoder makes NaN or infinity."""
    return RequestError(
        f"The model's {modality} encoder overflows at utterance {utterance}: leave its {modality} out, or serve the model with dtype float32.",
        500,
        "INTERNAL",
    )


def as_request_error(error: BaseException, request_id: str, seconds: float) -> RequestError:
    """Convert any exception to an error response.

    Unexpected exceptions are logged with class and location, without their text, which may quote the payload.

    Args:
        error: the exception.
        request_id: the request's id.
        seconds: the limit on an utterance's audio, for the message.
    """
    from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady

    if isinstance(error, RequestError):
        return error
    if isinstance(error, ModelNotFound):
        return unknown_model()
    if isinstance(error, (ModelNotReady, ServerNotReady)):
        return not_ready()
    if isinstance(error, InvalidInput):
        return RequestError(f"{str(error).rstrip('.')}.", plain="The request is invalid.")
    if isinstance(error, MistereError):
        from mistere.model.dialogue_model import AudioDecodeError, AudioTooLongError, CellDecodeError

        if isinstance(error, AudioTooLongError):
            return audio_too_long(error.utterance, seconds)
        if isinstance(error, AudioDecodeError):
            return unsupported_audio(error.utterance)
        if isinstance(error, CellDecodeError):
            return unreadable(error.utterance, error.modality, error.reason)
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    logger.error("request=%s failed: %s at %s", log_value(request_id), type(error).__name__, where)
    return internal(request_id)


def printable(text: str, length: int = 64) -> str:
    """A client's text in a form that is safe to log: printable, on one line, bounded."""
    start = text[:length]
    return (
        start if start.isprintable() else "".join(character if character.isprintable() else "?" for character in start)
    )


def log_value(text: str, length: int = 64) -> str:
    """A text from outside as one value of a ``key=value`` log line, so that it cannot forge a further field or line.

    Plain letters, digits and ``-_.:/@+`` stay as they are; any other text becomes a JSON string in ASCII, of which the log's
    reader gets the text back with a JSON parser.

    Args:
        text: the text.
        length: the most characters of it that are logged.
    """
    start = text[:length]
    return start if _PLAIN.fullmatch(start) else json.dumps(start)
