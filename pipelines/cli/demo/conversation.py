"""A conversation under way: its turns and the model's answer to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mistere.common.errors import MistereError
from mistere.serving.client import EndpointError, EndpointPrediction

Ask = Callable[[Sequence["ConversationTurn"]], EndpointPrediction]
"""Turns → the model's answer."""

_MOST_LETTERS = 300


@dataclass(frozen=True)
class ConversationTurn:
    """One utterance: its words, its encoded audio and how long that is, or one of them."""

    text: str | None = None
    audio: bytes | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Conversation:
    """The turns so far, the answer to all of them, and what went wrong last, as a sentence."""

    turns: tuple[ConversationTurn, ...] = ()
    answer: EndpointPrediction | None = None
    trouble: str = ""


def judged(before: Conversation, turns: Sequence[ConversationTurn], ask: Ask) -> Conversation:
    """The conversation with these turns and the answer to them.

    Where the model does not answer, the conversation stays as it was before, and says why.
    """
    if not turns:
        return Conversation()
    try:
        answer = ask(turns)
        _check(answer, len(turns))
    except MistereError as error:
        return troubled(before, str(error))
    except (KeyError, IndexError, TypeError, ValueError):
        return troubled(before, "The answer cannot be read: is it the predictor that answers there?")
    return Conversation(tuple(turns), answer)


def troubled(before: Conversation, sentence: str) -> Conversation:
    """The conversation as it was, with what went wrong."""
    said = " ".join(sentence.split())
    said = said if len(said) <= _MOST_LETTERS else said[: _MOST_LETTERS - 1] + "…"
    return replace(before, trouble=said[:1].upper() + said[1:])


def _check(answer: EndpointPrediction, turns: int) -> None:
    fits = (
        answer.probabilities.shape == (turns, len(answer.labels))
        and answer.expert_weights.shape == (turns, len(answer.experts))
        and len(answer.predicted) == len(answer.modalities) == turns
    )
    if not fits:
        raise EndpointError("The answer does not fit the conversation: is it the predictor that answers there?")
