"""One stream, whatever carries its messages: reads audio and control messages, and answers each turn as it ends."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from mistere.predictor import metrics
from mistere.predictor.errors import RequestError, as_request_error
from mistere.predictor.protocol.codec import response_parameters
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.settings import Limits
from mistere.predictor.stream.audio import AudioReader, audio_reader
from mistere.predictor.stream.conversation import Conversation
from mistere.predictor.stream.interim import InterimAnswers
from mistere.predictor.stream.messages import (
    MAX_MESSAGE_BYTES,
    CloseCode,
    End,
    EndTurn,
    Start,
    StreamError,
    Transcript,
    parse_message,
)
from mistere.predictor.stream.turns import RATE, SAMPLE_BYTES, WAV_HEAD_BYTES, ChannelSplitter, Cut
from mistere.predictor.tracing.request_trace import TRACING
from mistere.serving import protocol

_WAITING_TURNS: Final = 8
"""Turns of a stream that wait for their answers; nothing more is read from its client until one is answered."""

_SPEED: Final = 8
_AHEAD_SECONDS: Final = 60.0
"""Audio is read at so many times the speed of speech, and so much more at once: finding turns takes the event loop's time."""
_LEAST_SECONDS: Final = 0.01
"""What a message counts at least: tiny ones and control messages take the event loop's time, too."""
_ANSWERED, _CLIENT_LEFT = 200, 499
"""Codes of turns, as those of REST."""

Receive = Callable[[], Awaitable[bytes | str]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class StreamSession:
    """A stream.

    Args:
        data_plane: answers requests.
        limits: limits of a request, and of streams.
        receive: returns the next message of the client: bytes of audio, or a control message.
        send: sends a message to the client.
        traceparent: the client's header of that name.
    """

    def __init__(
        self,
        data_plane: PredictorDataPlane,
        limits: Limits,
        receive: Receive,
        send: Send,
        traceparent: str | None = None,
    ) -> None:
        self._data_plane, self._limits = data_plane, limits
        self._receive, self._send = receive, send
        self._traceparent = traceparent
        self._channels = 1
        self._texts: dict[int, str] = {}
        self._splitter: ChannelSplitter
        self._audio: AudioReader
        self._conversation: Conversation
        self._interim: InterimAnswers | None = None
        self._ended: deque[Cut | int] = deque()
        self._waiting: asyncio.Queue[int | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(_WAITING_TURNS)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until the client ends the stream, the server stops, or a message is wrong or missing; turns that ended by then are answered.

        An open turn is answered, too, except after a message that is wrong or missing, of which it would be the part before.

        Raises:
            StreamError: the stream ends with another code than 1000.
        """
        leaving = asyncio.create_task(stopping.wait())
        beginning = asyncio.create_task(self._begin())
        tasks: list[asyncio.Task[Any]] = [leaving, beginning]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not beginning.done():
                raise _stopping()
            beginning.result()
            answering = asyncio.create_task(self._answer_turns())
            reading = asyncio.create_task(self._read())
            tasks += [answering, reading]
            await asyncio.wait({answering, reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            ending = _stopping() if not reading.done() and not answering.done() else None
            if ending is not None:
                reading.cancel()
                await asyncio.wait({reading})
            elif reading.done():
                try:
                    reading.result()
                except StreamError as error:
                    ending = error
                    self._splitter.close()
            tasks.append(asyncio.create_task(self._end_turns()))  # beside the answers: it waits while too many turns do
            await answering
            if ending is not None:
                raise ending
        finally:
            for task in tasks:
                task.cancel()
            if self._interim is not None:
                self._interim.close()

    async def _begin(self) -> None:
        first = await self._next()
        message = parse_message(first, 1) if isinstance(first, str) else None
        if not isinstance(message, Start):
            raise StreamError(CloseCode.POLICY, 'The first message must be {"type": "start", "channels": 1}.')
        name = message.model or min(self._data_plane.model_registry.get_models(), default="")
        try:
            await self._data_plane.admit(name, "")
            model = await self._data_plane.get_model(name)
        except Exception as error:
            failure = as_request_error(error, str(uuid.uuid4()), self._limits.utterance_seconds)
            raise StreamError(
                CloseCode.POLICY if failure.code == 404 else CloseCode.TRY_LATER, failure.message
            ) from error
        transcribes = message.parameters.get(protocol.TRANSCRIBE, True) and model.loaded.transcriber is not None
        if "speech" not in model.loaded.encoder_digests and not transcribes:
            raise StreamError(CloseCode.POLICY, "This model reads no audio, so it cannot answer a stream.")
        if message.interim and "speech" not in model.loaded.encoder_digests:
            raise StreamError(CloseCode.POLICY, "This model reads transcripts only, so it gives no interim answers.")
        self._channels = message.channels
        self._splitter = ChannelSplitter(
            message.channels, self._limits.stream_silence_seconds, _longest_turn(self._limits)
        )
        self._audio = audio_reader(message.encoding, self._splitter, message.channels)
        self._conversation = Conversation(self._data_plane, name, self._limits, message.parameters)
        if message.interim:
            self._interim = InterimAnswers(
                self._splitter, self._conversation, self._texts, lambda: model.is_idle, self._send
            )
        await self._send({"type": "ready", "model": name, "rate": RATE, **response_parameters(model.loaded)})

    async def _next(self) -> bytes | str:
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                message = await self._receive()
        except TimeoutError as error:
            raise StreamError(
                CloseCode.POLICY, f"No message arrived within {self._limits.idle_seconds:g} s."
            ) from error
        if len(message) > MAX_MESSAGE_BYTES:
            raise StreamError(CloseCode.TOO_LARGE, f"A message may have {MAX_MESSAGE_BYTES} bytes; this one has more.")
        return message

    async def _read(self) -> None:
        """Read until the client ends the stream."""
        credit, since = _AHEAD_SECONDS, time.monotonic()
        while True:
            content, seconds = await self._next(), 0.0
            if isinstance(content, bytes):
                cuts, seconds = self._audio.read(content)
                await self._await_answers(cuts)
            else:
                message = parse_message(content, self._channels)
                if isinstance(message, End):
                    return
                await self._control(message)
            now = time.monotonic()
            credit, since = min(_AHEAD_SECONDS, credit + _SPEED * (now - since)), now
            credit -= max(seconds, _LEAST_SECONDS)
            if credit < 0:
                await asyncio.sleep(-credit / _SPEED)

    async def _control(self, message: Start | EndTurn | Transcript) -> None:
        """Carry out a control message.

        Raises:
            StreamError: it is a second start.
        """
        if isinstance(message, Start):
            raise StreamError(CloseCode.POLICY, "The stream has started already: open another one.")
        if isinstance(message, EndTurn):
            await self._await_answers(self._splitter.close(message.channel))
        elif message.turn is None:
            self._texts[message.channel] = message.text
        elif self._conversation.set_text(message.turn, message.text):
            await self._await_answers([message.turn])
        else:
            await self._send({"type": "error", "error": f"Turn {message.turn} is not held here."})

    async def _end_turns(self) -> None:
        """End the open turns; the answers end with theirs."""
        await self._await_answers(self._splitter.close())
        self._waiting.put_nowait(None)

    async def _await_answers(self, turns: Iterable[Cut | int]) -> None:
        """Queue turns that have ended, and numbers of turns that are answered again, as soon as there is room for each.

        What has no room yet stays in a list: a stop may cancel the wait for room, and queues the rest itself.
        """
        self._ended.extend(turns)
        if self._interim is not None:
            self._interim.update()
        while self._ended:
            await self._room.acquire()
            turn = self._ended.popleft()
            if isinstance(turn, Cut):
                turn = self._conversation.add(turn, self._texts.pop(turn.channel, ""))
            self._waiting.put_nowait(turn)

    async def _answer_turns(self) -> None:
        """Answer the turns in their order; an error of one does not end the stream."""
        while (number := await self._waiting.get()) is not None:
            self._room.release()
            await self._send(await self._answer(number))

    async def _answer(self, number: int) -> dict[str, Any]:
        """The message that answers a turn, which counts as a request."""
        trace = TRACING.begin("stream", lambda: self._traceparent)
        code, identity = _CLIENT_LEFT, str(uuid.uuid4())
        failure: RequestError | None = None
        try:
            answer = {"type": "turn", **await self._conversation.answer(number, identity)}
            code = _ANSWERED
        except Exception as error:
            failure = as_request_error(error, identity, self._limits.utterance_seconds)
            answer = {"type": "error", "turn": number, "code": failure.code, "error": failure.message}
            code = failure.code
        finally:
            metrics.labelled(metrics.REQUESTS, "stream", str(code)).inc()
            TRACING.end(trace, str(code), code >= 500, identity, failure)
        return answer


def _longest_turn(limits: Limits) -> float:
    """Length at which a turn ends in any case, so that a request can hold it, seconds."""
    held = (limits.request_bytes - WAV_HEAD_BYTES) / (RATE * SAMPLE_BYTES)
    return min(limits.utterance_seconds, limits.request_seconds, held)


def _stopping() -> StreamError:
    return StreamError(CloseCode.GOING_AWAY, "The server stops: open a new stream.")
