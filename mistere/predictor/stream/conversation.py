"""The turns of a stream so far, and the request that answers one of them with the turns before it as context."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pybase64

from mistere.predictor.errors import RequestError
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.settings import Limits
from mistere.predictor.stream.origin import ORIGIN, StreamOrigin
from mistere.predictor.stream.turns import RATE, SAMPLE_BYTES, WAV_HEAD_BYTES, Cut
from mistere.serving import protocol

_UNKNOWN_DIGEST: Final = 409
_BYTES_PER_TOKEN: Final = 4
_NAME_BYTES: Final = 16
_TURN_PARAMETERS: Final = (protocol.MODALITIES, protocol.WEIGHTS_MEANING)
"""Parameters of an answer that ``ready`` does not have."""


@dataclass
class Turn:
    """A turn whose audio has ended.

    Attributes:
        number: its place in the stream.
        channel: the speaker's channel.
        start: begin, from the begin of the stream, seconds.
        end: end, likewise.
        clip: a WAV file.
        text: the client's transcript; empty for none.
    """

    number: int
    channel: int
    start: float
    end: float
    clip: bytes
    text: str = ""

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.clip).hexdigest()

    @property
    def audio_seconds(self) -> float:
        """Length of the audio, seconds."""
        return (len(self.clip) - WAV_HEAD_BYTES) / SAMPLE_BYTES / RATE


class Conversation:
    """Keeps the turns that a request may hold, and asks the model as a client does that sends the growing dialogue again.

    The context of a turn is the turns before it, as many as a request may hold, however many have ended since. So a turn is kept as
    long as an unanswered one needs it.

    Args:
        data_plane: answers requests.
        model_name: the model.
        limits: limits of a request.
        parameters: those of each request.
    """

    def __init__(
        self, data_plane: PredictorDataPlane, model_name: str, limits: Limits, parameters: Mapping[str, Any]
    ) -> None:
        self._data_plane, self._model_name, self._limits = data_plane, model_name, limits
        self._parameters = dict(parameters)
        detail = self._parameters.get(protocol.DETAIL) is True
        self._interim_parameters = {**self._parameters, protocol.DETAIL: detail, protocol.TRANSCRIBE: False}
        self._name = os.urandom(_NAME_BYTES)
        self._turns: list[Turn] = []
        self._count = 0
        self._unanswered: list[int] = []

    def add(self, cut: Cut, text: str) -> int:
        """Add a turn that has ended, to be answered; returns its number."""
        number = self._count
        self._count += 1
        self._turns.append(Turn(number, cut.channel, *cut.seconds, cut.wav(), text))
        self._unanswered.append(number)
        return number

    def set_text(self, number: int, text: str) -> bool:
        """Set the transcript of a turn, to be answered again; False if the turn is not held."""
        turn = next((turn for turn in self._turns if turn.number == number), None)
        if turn is None:
            return False
        turn.text = text
        self._unanswered.append(number)
        return True

    @property
    def is_answered(self) -> bool:
        """Whether no turn waits for its answer."""
        return not self._unanswered

    async def answer(self, number: int, identity: str = "") -> dict[str, Any]:
        """Predict a turn from its audio and text and the turns before it.

        Args:
            number: of a turn that is to be answered.
            identity: id of the request; empty for a new one.

        Returns:
            Number, channel and times of the turn, and the fields of a V1 prediction for it.

        Raises:
            Exception: as :meth:`PredictorDataPlane.infer`.
        """
        turns = self._window(number)
        try:
            prediction = await self._predicted(turns, identity)
        finally:
            self._unanswered.remove(number)
            self._forget()
        return {"turn": number, **prediction}

    async def interim(self, cut: Cut, text: str) -> dict[str, Any]:
        """Predict an open turn from its audio so far and the turns before it. It is kept neither here nor in the caches of the server.

        Args:
            cut: the turn as if it ended now.
            text: its transcript so far; the model adds none.

        Returns:
            Channel and times, and the fields of a V1 prediction, without an explanation.

        Raises:
            Exception: as :meth:`PredictorDataPlane.infer`.
        """
        turn = Turn(self._count, cut.channel, *cut.seconds, cut.wav(), text)
        return await self._predicted(self._fitting([*self._turns, turn]), interim=True)

    def _window(self, number: int) -> list[Turn]:
        """A turn, and before it as many of the held ones as fit into a request with it."""
        return self._fitting(self._turns[: number + 1 - self._turns[0].number])

    def _fitting(self, turns: Sequence[Turn]) -> list[Turn]:
        """The last turn, and before it as many of the others as fit into a request with it."""
        limits = self._limits
        last = len(turns) - 1
        first, size, seconds, text = last + 1, 0, 0.0, 0
        for index in range(last, -1, -1):
            turn = turns[index]
            size += len(turn.clip)
            seconds += turn.audio_seconds
            text += len(turn.text.encode())
            fits = (
                last - index < limits.utterances
                and size <= limits.request_bytes
                and seconds <= limits.request_seconds
                and text <= limits.request_tokens * _BYTES_PER_TOKEN
            )
            if index < last and not fits:
                break
            first = index
        return list(turns[first:])

    def _forget(self) -> None:
        """Drop the turns before the context of the oldest unanswered turn, or of the last one."""
        oldest = min(self._unanswered, default=self._turns[-1].number)
        del self._turns[: self._window(oldest)[0].number - self._turns[0].number]

    async def _predicted(self, turns: list[Turn], identity: str = "", interim: bool = False) -> dict[str, Any]:
        """Channel and times of the last of some turns, and the fields of its prediction."""
        turn, parameters = turns[-1], self._interim_parameters if interim else self._parameters
        token = ORIGIN.set(StreamOrigin(self._name, turns[0].number, interim))
        try:  # turns answered before are in the server's store, so their audio need not be read again
            prediction = await self._ask(turns, parameters, identity, resend=False)
        except RequestError as error:
            if error.code != _UNKNOWN_DIGEST:
                raise
            prediction = await self._ask(turns, parameters, identity, resend=True)
        finally:
            ORIGIN.reset(token)
        return {"channel": turn.channel, "start": turn.start, "end": turn.end, **prediction}

    async def _ask(
        self, turns: list[Turn], parameters: Mapping[str, Any], identity: str, resend: bool
    ) -> dict[str, Any]:
        utterances = []
        for turn in turns:
            last = turn is turns[-1]
            utterance: dict[str, Any] = {protocol.PREDICT: last, protocol.TEXT: turn.text or None}
            if last or resend:
                utterance[protocol.AUDIO] = pybase64.b64encode(turn.clip).decode()
            else:
                utterance[protocol.AUDIO_DIGEST] = turn.digest
            utterances.append(utterance)
        size = sum(len(utterance.get(protocol.AUDIO, "")) for utterance in utterances)
        await self._data_plane.admit(self._model_name, "")
        response, _ = await self._data_plane.infer(
            self._model_name,
            {"instances": [{"utterances": utterances}], "parameters": parameters, "id": identity},
            {protocol.SIZE_HEADER: str(size)},
        )
        fields = {name: column[-1] for name, column in response["predictions"][0].items()}
        if protocol.INFLUENTIAL_TURNS in fields:
            fields[protocol.INFLUENTIAL_TURNS] = [
                turns[index].number if index >= 0 else index for index in fields[protocol.INFLUENTIAL_TURNS]
            ]
        further = {name: response["parameters"][name] for name in _TURN_PARAMETERS if name in response["parameters"]}
        scripts = _scripts_of(response["parameters"].get(protocol.UNKNOWN_SCRIPT, ""), len(turns) - 1)
        if scripts:
            further[protocol.UNKNOWN_SCRIPT] = scripts
        return {**fields, "parameters": further} if further else fields


def _scripts_of(listed: str, index: int) -> str:
    """The scripts of one utterance in a list such as ``Cyrillic: 0, 3; Greek: 3``, joined by ``, ``."""
    parts = (part.partition(": ") for part in listed.split("; "))
    return ", ".join(script for script, _, places in parts if str(index) in places.split(", "))
