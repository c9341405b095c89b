"""State of a demo conversation: its turns and the model's prediction for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from mistere.common.errors import MistereError
from mistere.serving.client import EndpointError, EndpointPrediction

Ask = Callable[[Sequence["ConversationTurn"]], EndpointPrediction]
"""Maps turns to the model's prediction."""

_MAX_CHARACTERS = 300


@dataclass(frozen=True)
class ConversationTurn:
    """One utterance: text, encoded audio with its duration, cells of further modalities by name (images), or several of them.

    With ``predict`` False it is context for the others only.
    """

    text: str | None = None
    audio: bytes | None = None
    seconds: float = 0.0
    predict: bool = True
    others: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelChange:
    """A later turn changed the predicted emotion of an earlier one.

    Attributes:
        before: the emotion that was predicted until then.
        by: index of the later turn.
    """

    before: str
    by: int


@dataclass(frozen=True)
class Conversation:
    """The turns so far and the prediction for all of them.

    Attributes:
        turns: the turns.
        answer: the prediction for all turns; None without turns.
        labels: for each turn, the emotions predicted when the conversation ended with it; empty if it never did.
        trouble: the last error as a sentence; empty if there is none.
    """

    turns: tuple[ConversationTurn, ...] = ()
    answer: EndpointPrediction | None = None
    labels: tuple[tuple[str, ...], ...] = ()
    trouble: str = ""

    def last_change(self, turn: int) -> LabelChange | None:
        """The last change of a turn's predicted emotion by a later turn; None if there was none."""
        changes = [
            LabelChange(before[turn], by)
            for by, (before, after) in enumerate(pairwise(self.labels), start=1)
            if turn < len(before) and after and before[turn] != after[turn]
        ]
        return changes[-1] if changes else None


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
    kept = before.labels[: len(turns) - 1] if _continues(before.turns, turns) else ()
    unknown = ((),) * (len(turns) - 1 - len(kept))
    return Conversation(tuple(turns), answer, (*kept, *unknown, tuple(answer.predicted)))


def played(before: Conversation, turns: Sequence[ConversationTurn], ask: Ask) -> Conversation:
    """Return the conversation with these turns, predicted turn by turn as if they had been added one by one.

    If a request fails, the previous conversation is returned with the error.
    """
    after = Conversation()
    for count in range(1, len(turns) + 1):
        after = judged(after, turns[:count], ask)
        if after.trouble:
            return troubled(before, after.trouble)
    return after


def _continues(before: Sequence[ConversationTurn], turns: Sequence[ConversationTurn]) -> bool:
    """Whether one of two conversations begins with the other."""
    return all(one == other for one, other in zip(before, turns, strict=False))


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
