"""What a stream does with its turns when the client is ahead of the server: a data plane that answers when the test says so."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.settings import Limits
from mistere.predictor.stream import session
from mistere.predictor.stream.conversation import Conversation
from mistere.predictor.stream.messages import StreamError
from mistere.predictor.stream.origin import ORIGIN, StreamOrigin
from mistere.predictor.stream.session import StreamSession
from mistere.predictor.stream.turns import RATE, Cut
from tests.serving.test_stream import silence, voice

SECONDS = 0.5
"""Length of a turn of these tests."""
CLIP_BYTES = int(SECONDS * RATE) * 2 + 44
FEW = replace(Limits(), request_bytes=3 * CLIP_BYTES)
"""Three turns fill a request."""


class Plane:
    """Answers with the number of turns in the request, once it may."""

    def __init__(self) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self.origins: list[StreamOrigin | None] = []
        self.ids: list[str] = []
        self.failure: Exception | None = None
        self.may_answer = asyncio.Event()
        self.further: dict[str, Any] = {}
        self.parameters: dict[str, str] = {}
        self.model_registry = SimpleNamespace(get_models=lambda: {"mistere": None})

    async def admit(self, name: str, version: str) -> None:
        pass

    async def get_model(self, name: str) -> Any:
        bundle = SimpleNamespace(digest="d" * 64)
        loaded = SimpleNamespace(
            bundle=bundle, labels=["joy"], experts=["speech"], encoder_digests={"speech": ""}, transcriber=None
        )
        return SimpleNamespace(loaded=loaded)

    async def infer(self, name: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[dict[str, Any], None]:
        (instance,) = body["instances"]
        self.requests.append(instance["utterances"])
        self.origins.append(ORIGIN.get())
        self.ids.append(body["id"])
        if self.failure is not None:
            raise self.failure
        await self.may_answer.wait()
        size = len(instance["utterances"])
        columns: dict[str, Any] = {"label": ["joy"] * size, **self.further}
        return {"predictions": [columns], "parameters": self.parameters}, None


def as_plane(plane: Plane) -> PredictorDataPlane:
    return cast(PredictorDataPlane, plane)


def cut(number: int) -> Cut:
    """A turn that differs from the others."""
    return Cut(0, number * RATE, np.full(int(SECONDS * RATE), number, "<i2").tobytes())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(limited())


def test_the_context_of_a_turn_does_not_depend_on_later_turns() -> None:
    async def work() -> list[int]:
        plane = Plane()
        plane.may_answer.set()
        conversation = Conversation(as_plane(plane), "mistere", FEW, {})
        numbers = [conversation.add(cut(number), "") for number in range(9)]
        for number in numbers:
            assert (await conversation.answer(number))["turn"] == number
        assert conversation.set_text(6, "again") and not conversation.set_text(5, "not held any more")
        return [len(request) for request in plane.requests]

    assert run(work()) == [1, 2, 3, 3, 3, 3, 3, 3, 3]


def test_requests_name_their_stream_and_place() -> None:
    async def work() -> list[StreamOrigin | None]:
        plane = Plane()
        plane.may_answer.set()
        for _ in range(2):
            conversation = Conversation(as_plane(plane), "mistere", FEW, {})
            for number in [conversation.add(cut(number), "") for number in range(5)]:
                await conversation.answer(number)
            await conversation.interim(cut(5), "")
        return plane.origins

    origins = [origin for origin in run(work()) if origin is not None]
    assert [origin.first for origin in origins] == [0, 0, 0, 1, 2, 3] * 2
    assert [origin.interim for origin in origins] == [False, False, False, False, False, True] * 2
    assert len({origin.stream for origin in origins[:6]}) == 1 and origins[0].stream != origins[6].stream


def test_an_explanation_names_turns_of_the_stream_and_its_columns() -> None:
    async def work() -> dict[str, Any]:
        plane = Plane()
        plane.may_answer.set()
        plane.further = {"influential_turns": [[0, 1, -1]] * 3}
        plane.parameters = {"labels": "joy", "modalities": "speech,text", "unknown_script": "Cyrillic: 0, 2; Greek: 1"}
        conversation = Conversation(as_plane(plane), "mistere", FEW, {"detail": "explain"})
        for number in range(6):
            conversation.add(cut(number), "")
        return await conversation.answer(5)

    answer = run(work())
    assert answer["influential_turns"] == [3, 4, -1]
    assert answer["parameters"] == {"modalities": "speech,text", "unknown_script": "Cyrillic"}


class Client:
    """The client's side of a session: what it sends, and what it has received."""

    def __init__(self, *messages: bytes | str) -> None:
        self.messages: asyncio.Queue[bytes | str] = asyncio.Queue()
        for message in (json.dumps({"type": "start"}), *messages):
            self.messages.put_nowait(message)
        self.received: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.received.append(message)

    def session(self, plane: Plane, limits: Limits) -> StreamSession:
        return StreamSession(as_plane(plane), limits, self.messages.get, self.send)

    def turns(self) -> list[int]:
        return [message["turn"] for message in self.received if message["type"] == "turn"]


def spoken(turns: int) -> bytes:
    return b"".join(voice(0.5).tobytes() + silence(0.9).tobytes() for _ in range(turns))


async def settled() -> None:
    """Wait until only the gate of the plane is waited for."""
    for _ in range(200):
        await asyncio.sleep(0)


def test_a_stop_loses_no_turn_that_has_ended() -> None:
    """One is in work, eight wait, one waits for room, and more are in the same message."""

    async def work() -> tuple[list[int], str]:
        plane, stopping = Plane(), asyncio.Event()
        client = Client(*[spoken(4)] * 3)
        serving = asyncio.create_task(client.session(plane, FEW).run(stopping))
        await settled()
        assert client.messages.empty() and client.turns() == []
        stopping.set()
        await settled()
        plane.may_answer.set()
        with pytest.raises(StreamError) as ended:
            await serving
        return client.turns(), str(ended.value)

    turns, reason = run(work())
    assert turns == list(range(12)) and reason == "The server stops: open a new stream."


def test_silence_of_the_client_loses_no_turn_that_has_ended() -> None:
    async def work() -> tuple[list[int], str]:
        plane = Plane()
        client = Client(spoken(5))
        serving = asyncio.create_task(client.session(plane, replace(FEW, idle_seconds=0.05)).run(asyncio.Event()))
        await asyncio.sleep(0.1)
        plane.may_answer.set()
        with pytest.raises(StreamError) as ended:
            await serving
        return client.turns(), str(ended.value)

    turns, reason = run(work())
    assert turns == list(range(5)) and reason == "No message arrived within 0.05 s."


def test_an_error_has_the_id_of_its_request() -> None:
    async def work() -> tuple[list[str], list[dict[str, Any]]]:
        plane = Plane()
        plane.failure = RuntimeError("broken")
        client = Client(spoken(2), json.dumps({"type": "end"}))
        await client.session(plane, Limits()).run(asyncio.Event())
        return plane.ids, client.received[1:]

    ids, answers = run(work())
    assert [answer["error"].rpartition(" ")[2] for answer in answers] == [f"{identity}." for identity in ids]
    assert len(set(ids)) == 2 and all(len(identity) == 36 for identity in ids)


def test_a_stop_does_not_wait_for_a_client_that_has_not_begun() -> None:
    async def work() -> None:
        client, stopping = Client(), asyncio.Event()
        client.messages.get_nowait()
        stopping.set()
        with pytest.raises(StreamError, match="The server stops"):
            await asyncio.wait_for(client.session(Plane(), FEW).run(stopping), 5)

    run(work())


def test_a_turn_ends_where_a_request_could_not_hold_it() -> None:
    async def work() -> list[float]:
        plane, small = Plane(), replace(Limits(), request_bytes=2 * RATE * 2)
        plane.may_answer.set()
        client = Client(voice(5).tobytes(), json.dumps({"type": "end"}))
        await client.session(plane, small).run(asyncio.Event())
        return [message["end"] - message["start"] for message in client.received if message["type"] == "turn"]

    lengths = run(work())
    assert len(lengths) > 2 and 1.5 < max(lengths) < 2


@pytest.mark.parametrize(
    "messages", [[silence(8).tobytes()] * 3, [json.dumps({"type": "end_turn"})] * 2400], ids=["audio", "end_turn"]
)
def test_a_client_that_sends_without_pause_is_read_at_a_limited_speed(
    monkeypatch: pytest.MonkeyPatch, messages: list[bytes | str]
) -> None:
    monkeypatch.setattr(session, "_AHEAD_SECONDS", 8.0)
    monkeypatch.setattr(session, "_SPEED", 40)

    async def work() -> None:
        plane = Plane()
        client = Client(*messages, json.dumps({"type": "end"}))
        await client.session(plane, Limits()).run(asyncio.Event())

    begin = time.monotonic()
    run(work())
    assert time.monotonic() - begin > 0.39
