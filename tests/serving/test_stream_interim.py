"""Interim answers of streams: equal to files of what was said so far, and without a trace in contexts, counts and caches."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from mistere.data.kinds.audio import encoded
from mistere.predictor.settings import Limits
from mistere.predictor.stream.turns import RATE, TurnCutter
from tests.serving.conftest import Server, Utterance
from tests.serving.test_stream import closed_with, metric, opened, send_audio, silence, voice, wait_until
from tests.serving.test_stream_turns import Client, Plane, run, settled

PIECE = RATE // 10
COUNTS = (
    "mistere_traffic_turns_total",
    "mistere_traffic_resent_turns_total",
    "mistere_traffic_dialogues_total",
    'mistere_requests_total{code="200",protocol="stream"}',
    "mistere_context_utterances_total",
    'request_predict_seconds_count{model_name="mistere"}',
)


def test_interim_answers_equal_files_and_leave_no_trace(server: Server) -> None:
    samples = np.concatenate([voice(1.0), silence(1.0), voice(2.6, 170)])
    before = [metric(server, name) for name in COUNTS]
    interim: list[dict[str, Any]] = []
    with opened(server, {"interim": True, "parameters": {"detail": "explain"}}) as stream:
        send_audio(stream, samples[: 2 * RATE], 2 * PIECE)
        first = json.loads(stream.recv(60))
        while first["type"] == "interim":
            first = json.loads(stream.recv(60))
        send_audio(stream, samples[2 * RATE :], 2 * PIECE)
        while len(interim) < 1:  # of a second, or of two
            interim.append(json.loads(stream.recv(60)))
        stream.send(json.dumps({"type": "end"}))
        while (last := json.loads(stream.recv(60)))["type"] == "interim":
            interim.append(last)
    assert (first["type"], first["turn"], last["type"], last["turn"]) == ("turn", 0, "turn", 1)
    assert "influential_turns" in last and all("influential_turns" not in answer for answer in interim)
    assert all(answer["start"] == last["start"] and answer["end"] < last["end"] for answer in interim)
    wait_until(lambda: metric(server, COUNTS[0]) == before[0] + 2)
    after = [metric(server, name) for name in COUNTS]
    assert [now - was for now, was in zip(after, before, strict=True)] == [2, 0, 1, 2, 1, 2]

    def file_of(answer: dict[str, Any]) -> Utterance:
        return Utterance(
            None, encoded(samples[round(answer["start"] * RATE) : round(answer["end"] * RATE)], RATE, "PCM_16")
        )

    for answer in (*interim, last):
        from_files = server.client.predict_v1([file_of(first), file_of(answer)])
        np.testing.assert_allclose(answer["probabilities"], from_files.probabilities[-1], atol=1e-4)


def test_a_client_that_did_not_ask_gets_none_and_a_wrong_wish_is_refused(server: Server) -> None:
    with opened(server, {}) as stream:
        send_audio(stream, np.concatenate([voice(2.5), silence(1.0)]), PIECE)
        assert json.loads(stream.recv(60))["type"] == "turn"
    with opened(server) as stream:
        stream.send(json.dumps({"type": "start", "interim": 1}))
        assert closed_with(stream) == (1008, "The field interim must be true or false.")


class BusyPlane(Plane):
    """A data plane whose model says whether it is idle."""

    def __init__(self) -> None:
        super().__init__()
        self.is_idle = True
        self.parameters_asked: list[dict[str, Any]] = []

    async def get_model(self, name: str) -> Any:
        model = await super().get_model(name)
        model.is_idle = self.is_idle
        return model

    async def infer(self, name: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[dict[str, Any], None]:
        self.parameters_asked.append(body["parameters"])
        return await super().infer(name, body, headers)


async def speak(client: Client, wave: np.ndarray) -> None:
    for at in range(0, len(wave), PIECE):
        client.messages.put_nowait(wave[at : at + PIECE].tobytes())
        await settled()


def talking(plane: BusyPlane) -> tuple[Client, asyncio.Task[None]]:
    client = Client()
    client.messages = asyncio.Queue()
    client.messages.put_nowait(json.dumps({"type": "start", "interim": True}))
    return client, asyncio.create_task(client.session(plane, Limits()).run(asyncio.Event()))


@pytest.mark.parametrize("idle", [True, False])
def test_interim_answers_come_each_second_unless_the_server_has_other_work(idle: bool) -> None:
    async def work() -> list[str]:
        plane = BusyPlane()
        plane.is_idle = idle
        plane.may_answer.set()
        client, serving = talking(plane)
        await speak(client, np.concatenate([voice(3.2), silence(1.0)]))
        client.messages.put_nowait(json.dumps({"type": "end"}))
        await serving
        assert all(len(request) == 1 for request in plane.requests), "no interim turn is context"
        assert [asked.get("transcribe") for asked in plane.parameters_asked[:-1]] == [False] * 3 * idle
        lengths = [message["end"] - message["start"] for message in client.received[1:]]
        np.testing.assert_allclose(lengths[:-1], [1, 2, 3][: len(lengths) - 1], atol=0.3)
        return [message["type"] for message in client.received]

    assert run(work()) == ["ready"] + ["interim"] * 3 * idle + ["turn"]


def test_an_interim_answer_is_dropped_once_its_turn_has_ended() -> None:
    async def work() -> list[str]:
        plane = BusyPlane()
        client, serving = talking(plane)
        await speak(client, np.concatenate([voice(2.4), silence(1.0)]))  # the first one is still computed
        plane.may_answer.set()
        client.messages.put_nowait(json.dumps({"type": "end"}))
        await serving
        assert len(plane.requests) == 2
        return [message["type"] for message in client.received]

    assert run(work()) == ["ready", "turn"]


def test_the_audio_of_an_open_turn_is_copied_for_an_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may send thousands of small messages a second, each of which looks at the open turns."""
    copies, so_far = [], TurnCutter.so_far

    def counted(cutter: TurnCutter) -> Any:
        copies.append(cutter)
        return so_far(cutter)

    monkeypatch.setattr(TurnCutter, "so_far", counted)

    async def work() -> None:
        plane = BusyPlane()
        client, serving = talking(plane)
        await speak(client, voice(3.4))  # the first answer is still computed
        for _ in range(50):
            client.messages.put_nowait(json.dumps({"type": "transcript", "channel": 0, "text": "so"}))
            client.messages.put_nowait(b"")
        await settled()
        assert len(copies) == 1
        plane.may_answer.set()
        client.messages.put_nowait(json.dumps({"type": "end"}))
        await serving

    run(work())
    assert len(copies) == 2
