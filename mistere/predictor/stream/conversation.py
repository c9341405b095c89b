"""The turns of a stream so far, and the request that answers one of them with the turns before it as context."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pybase64

from mistere.predictor.errors import RequestError
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.settings import Limits
from mistere.predictor.stream.turns import RATE, SAMPLE_BYTES, Cut
from mistere.serving import protocol

_UNKNOWN_DIGEST: Final = 409
_BYTES_PER_TOKEN: Final = 4


@dataclass
class Turn:
    """A turn whose audio has ended.

    Attributes:
        number: its place in the stream.
        cut: channel and time.
        clip: a WAV file.
        text: the client's transcript; empty for none.
    """

    number: int
    cut: Cut
    clip: bytes
    text: str = ""

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.clip).hexdigest()

    @property
    def audio_seconds(self) -> float:
        """Length of the audio, seconds."""
        return len(self.cut.pcm) / SAMPLE_BYTES / RATE


class Conversation:
    """Keeps as many turns as a request may hold, and asks the model as a client does that sends the growing dialogue again.

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
        self._turns: list[Turn] = []
        self._count = 0

    def add(self, cut: Cut, text: str) -> int:
        """Add a turn that has ended; returns its number. The oldest turns are forgotten at the limits of a request."""
        number = self._count
        self._count += 1
        self._turns.append(Turn(number, cut, cut.wav(), text))
        while len(self._turns) > 1 and not self._fits():
            del self._turns[0]
        return number

    def _fits(self) -> bool:
        limits, turns = self._limits, self._turns
        return (
            len(turns) <= limits.utterances
            and sum(len(turn.clip) for turn in turns) <= limits.request_bytes
            and sum(turn.audio_seconds for turn in turns) <= limits.request_seconds
            and sum(len(turn.text.encode()) for turn in turns) <= limits.request_tokens * _BYTES_PER_TOKEN
        )

    def set_text(self, number: int, text: str) -> bool:
        """Set the transcript of a turn; False if the turn is not held."""
        turn = next((turn for turn in self._turns if turn.number == number), None)
        if turn is None:
            return False
        turn.text = text
        return True

    async def answer(self, number: int) -> dict[str, Any] | None:
        """Predict a turn from its audio and text and the turns before it.

        Returns:
            Number, channel and times of the turn, and the fields of a V1 prediction for it; None if it is not held any more.

        Raises:
            Exception: as :meth:`PredictorDataPlane.infer`.
        """
        turns = [turn for turn in self._turns if turn.number <= number]
        if not turns or turns[-1].number != number:
            return None
        try:  # turns answered before are in the server's store, so their audio need not be read again
            prediction = await self._ask(turns, resend=False)
        except RequestError as error:
            if error.code != _UNKNOWN_DIGEST:
                raise
            prediction = await self._ask(turns, resend=True)
        turn = turns[-1]
        start, end = turn.cut.seconds
        return {"turn": number, "channel": turn.cut.channel, "start": start, "end": end, **prediction}

    async def _ask(self, turns: list[Turn], resend: bool) -> dict[str, Any]:
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
            {"instances": [{"utterances": utterances}], "parameters": self._parameters},
            {protocol.SIZE_HEADER: str(size)},
        )
        return {name: column[-1] for name, column in response["predictions"][0].items()}
