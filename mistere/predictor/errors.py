"""What a caller is told when a request is not answered: one sentence, one REST code, one gRPC status.

Nothing that a caller reads names a class, a path or a line of ours. What escapes as any other exception becomes one
neutral sentence with the request id, under which the log has the rest.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field

from mistere.common.errors import MistereError

logger = logging.getLogger("kserve.predictor")


@dataclass
class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        message: one sentence for the caller.
        code: REST status code.
        status: name of the gRPC status.
        headers: REST headers that go with it.
    """

    message: str
    code: int = 400
    status: str = "INVALID_ARGUMENT"
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message


def invalid(message: str) -> RequestError:
    """Malformed body, wrong shape or datatype, unknown tensor, NaN, wrong digest."""
    return RequestError(message)


def unsupported_audio(utterance: int) -> RequestError:
    """Audio that does not decode, or a codec that is not accepted."""
    return RequestError(
        f"The audio of utterance {utterance} does not decode, or its codec is not accepted: send WAV, FLAC or OGG.", 415
    )


def audio_too_long(utterance: int, seconds: float) -> RequestError:
    """An utterance above the limit after decoding."""
    return over_limit(f"The audio of utterance {utterance} is longer than {seconds:g} seconds.")


def over_limit(message: str) -> RequestError:
    """Above one of the server's limits."""
    return RequestError(message, 413, "RESOURCE_EXHAUSTED")


def unknown_model() -> RequestError:
    """No such model here."""
    return RequestError("No model of that name is served here.", 404, "NOT_FOUND")


def unknown_digests(missing: dict[int, str]) -> RequestError:
    """Digests of audio that this server does not hold, by utterance."""
    named = ", ".join(f"{utterance} ({digest})" for utterance, digest in missing.items())
    return RequestError(
        f"This server does not hold the audio of these utterances; send it again: {named}.", 409, "FAILED_PRECONDITION"
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
    """Still loading, or about to stop."""
    return RequestError("The model is not ready.", 503, "UNAVAILABLE", {"Retry-After": "5"})


def slow_body(seconds: float) -> RequestError:
    """A body that does not arrive."""
    return RequestError(f"The request's body did not arrive within {seconds:g} s.", 408, "DEADLINE_EXCEEDED")


def internal(request_id: str) -> RequestError:
    """Anything else."""
    return RequestError(f"The server could not answer this request; its id is {request_id}.", 500, "INTERNAL")


def as_request_error(error: BaseException, request_id: str, seconds: float) -> RequestError:
    """Any exception as what the caller is told.

    An unforeseen one is logged with its class and where it came from. Its text is not: it may quote the payload.

    Args:
        error: what was raised.
        request_id: the request's id.
        seconds: the limit of an utterance's audio, for the sentence.
    """
    from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady

    if isinstance(error, RequestError):
        return error
    if isinstance(error, ModelNotFound):
        return unknown_model()
    if isinstance(error, (ModelNotReady, ServerNotReady)):
        return not_ready()
    if isinstance(error, InvalidInput):
        return invalid(f"{str(error).rstrip('.')}.")
    if isinstance(error, MistereError):
        from mistere.model.inference import AudioDecodeError, AudioTooLongError

        if isinstance(error, AudioTooLongError):
            return audio_too_long(error.utterance, seconds)
        if isinstance(error, AudioDecodeError):
            return unsupported_audio(error.utterance)
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    logger.error("request=%s failed: %s at %s", printable(request_id), type(error).__name__, where)
    return internal(request_id)


def printable(text: str, length: int = 64) -> str:
    """A caller's text as a log line may hold it: one line, bounded."""
    start = text[:length]
    return start if start.isprintable() else "".join(one if one.isprintable() else "?" for one in start)
