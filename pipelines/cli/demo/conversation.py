"""State of a demo conversation: its turns and the model's prediction for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mistere.common.errors import MistereError
from mistere.serving.client import EndpointError, EndpointPrediction

Ask = Callable[[Sequence["ConversationTurn"]], EndpointPrediction]
"""Maps turns to the model's prediction."""

_MAX_CHARACTERS = 300


@dataclass(frozen=True)
class ConversationTurn:
    """One utterance: text, encoded audio with its duration, or both."""

    text: str | None = None
    audio: bytes | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Conversation:
    """The turns so far, the prediction for all of them, and the last error as a sentence."""

    turns: tuple[ConversationTurn, ...] = ()
    answer: EndpointPrediction | None = None
    trouble: str = ""


def judged(before: Conversation, turns: Sequence[ConversationTurn], ask: Ask) -> Conversation:
    """Return the conversation with these turns and the prediction for them.

    If the request fails, the previous conversation is returned with the error.
    """
    if not turns:
        return Conversation()
    try:
        answer = ask(turns)
        _check(answer, len(turns))
    except MistereError as error:
        return troubled(before, str(error))
    except (KeyError, IndexError, TypeError, ValueError):
        return troubled(before, "The response cannot be read: check that the address is a predictor's.")
    return Conversation(tuple(turns), answer)


def troubled(before: Conversation, sentence: str) -> Conversation:
    """Return the conversation unchanged, with an error message."""
    message = " ".join(sentence.split())
    message = message if len(message) <= _MAX_CHARACTERS else message[: _MAX_CHARACTERS - 1] + "…"
    return replace(before, trouble=message[:1].upper() + message[1:])


def _check(answer: EndpointPrediction, turns: int) -> None:
    fits = (
        answer.probabilities.shape == (turns, len(answer.labels))
        and answer.expert_weights.shape == (turns, len(answer.experts))
        and len(answer.predicted) == len(answer.modalities) == turns
    )
    if not fits:
        raise EndpointError("The response does not fit the conversation: check that the address is a predictor's.")
