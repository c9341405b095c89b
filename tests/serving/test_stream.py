"""Live audio over WebSocket: turns are cut, answered as they end, and equal to the same turns sent as files."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from mistere.data.kinds.audio import encoded
from mistere.predictor.stream.messages import MAX_MESSAGE_BYTES
from mistere.predictor.stream.turns import RATE, ChannelSplitter
from tests.serving.conftest import LABELS, ROOT, Server, Utterance, launch

FAULTY = [str(Path(__file__).with_name("faulty_server.py"))]


def voice(seconds: float, pitch: float = 140) -> np.ndarray:
    """A buzz with the harmonics and the rhythm of a voice, int16."""
    times = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * pitch * k * times) / k for k in range(1, 20)) * (0.7 + 0.3 * np.sin(25 * times))
    return (6000 * wave).astype("<i2")


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), "<i2")


def call() -> np.ndarray:
    """Two speakers who take turns: int16 ``[N, 2]``."""
    left = np.concatenate([silence(0.5), voice(1.2), silence(2.3), voice(0.9, 150), silence(1.0)])
    right = np.concatenate([silence(2.4), voice(0.9, 220), silence(2.6)])
    length = max(len(left), len(right))
    return np.stack([np.pad(side, (0, length - len(side))) for side in (left, right)], axis=1)


@contextmanager
def opened(server: Server, start: dict[str, Any] | None = None, **options: Any) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.http_port}/v1/stream", compression=None, proxy=None, **options) as stream:
        if start is not None:
            stream.send(json.dumps({"type": "start", **start}))
            assert json.loads(stream.recv(60))["type"] == "ready"
        yield stream


def send_audio(stream: ClientConnection, samples: np.ndarray, piece: int = 3200) -> None:
    for at in range(0, len(samples), piece):
        stream.send(samples[at : at + piece].tobytes())


def rest_of(stream: ClientConnection) -> list[dict[str, Any]]:
    """All further messages, until the server closes the stream as done."""
    messages = []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            messages.append(json.loads(stream.recv(60)))
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000, closed.value
    return messages


def closed_with(stream: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            stream.recv(60)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_turns_equal_the_same_turns_sent_as_files(server: Server) -> None:
    samples = call()
    with opened(server, {"channels": 2, "parameters": {"detail": True}}) as stream:
        stream.send(json.dumps({"type": "transcript", "channel": 1, "text": "At home, why?"}))
        send_audio(stream, samples)
        stream.send(json.dumps({"type": "end"}))
        turns = rest_of(stream)
    assert [(turn["type"], turn["turn"], turn["channel"]) for turn in turns] == [
        ("turn", 0, 0),
        ("turn", 1, 1),
        ("turn", 2, 0),
    ]
    files = []
    for turn, expected in zip(turns, (0.5, 2.4, 4.0), strict=True):
        assert abs(turn["start"] - expected) < 0.5 and turn["end"] > expected + 0.7
        first, last = round(turn["start"] * RATE), round(turn["end"] * RATE)
        clip = encoded(samples[first:last, turn["channel"]], RATE, "PCM_16")
        files.append(Utterance("At home, why?" if turn["turn"] == 1 else None, clip))
    for number, turn in enumerate(turns):
        answer = server.client.predict_v1(files[: number + 1], detail=True)
        for name in ("probabilities", "expert_weights", "expert_probabilities"):
            np.testing.assert_allclose(turn[name], getattr(answer, name)[-1], atol=1e-4)
        assert turn["label"] == answer.predicted[-1] and turn["label"] in LABELS
        assert turn["modalities_used"] == ("speech+text" if number == 1 else "speech")


def test_a_turn_is_answered_as_it_ends_and_again_with_its_transcript(server: Server) -> None:
    with opened(server, {}) as stream:
        send_audio(stream, np.concatenate([voice(1.0), silence(1.0)]))
        first = json.loads(stream.recv(60))
        stream.send(json.dumps({"type": "transcript", "turn": 0, "text": "How dare you!"}))
        again = json.loads(stream.recv(60))
        assert (first["turn"], first["modalities_used"]) == (0, "speech")
        assert (again["turn"], again["modalities_used"]) == (0, "speech+text")
        assert again["probabilities"] != first["probabilities"]
        send_audio(stream, voice(1.0))
        stream.send(json.dumps({"type": "end_turn"}))
        assert json.loads(stream.recv(60))["turn"] == 1
        stream.send(json.dumps({"type": "transcript", "turn": 7, "text": "?"}))
        assert json.loads(stream.recv(60)) == {"type": "error", "error": "Turn 7 is not held here."}


START = {"type": "start"}
REFUSED: list[tuple[list[dict[str, Any] | bytes | str], int, str]] = [
    ([b"\0\0"], 1008, "The first message must be"),
    (["no JSON"], 1003, "A text message must be a JSON object."),
    (["[" * 50_000], 1003, "A text message must be a JSON object."),
    ([{"type": "begin"}], 1008, "A message needs a type: start, transcript, end_turn, end."),
    ([{"type": "end"}], 1008, "The first message must be"),
    ([{**START, "rate": 8000}], 1003, "Send pcm16 at 16000 Hz"),
    ([{**START, "encoding": "mp3"}], 1003, "Send pcm16 at 16000 Hz"),
    ([{**START, "encoding": ["opus"]}], 1003, "Send pcm16 at 16000 Hz"),
    ([{**START, "channels": True}], 1008, "The field channels must be an integer from 1 to 8."),
    ([{**START, "channels": 9}], 1008, "The field channels must be an integer from 1 to 8."),
    ([{**START, "chanels": 2}], 1008, "Unknown field 'chanels' of start"),
    (
        [{**START, "parameters": {"transcribe": "yes"}}],
        1008,
        "The parameter 'transcribe' of a stream must be true or false.",
    ),
    ([{**START, "model": "other"}], 1008, "No model of that name is served here."),
    ([START, START], 1008, "The stream has started already"),
    ([{**START, "channels": 2}, b"\0\0"], 1003, "A binary message must hold whole samples"),
    (
        [START, {"type": "transcript", "channel": 1, "text": ""}],
        1008,
        "The field channel must be an integer from 0 to 0.",
    ),
    ([START, {"type": "transcript", "text": "a" * 5000}], 1008, "The text of a transcript must be"),
    ([START, b"\0" * (MAX_MESSAGE_BYTES + 2)], 1009, "A message may have 262144 bytes"),
    ([START, b"\0" * (3 * MAX_MESSAGE_BYTES)], 1009, ""),
]


@pytest.mark.parametrize(("messages", "code", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_message_ends_the_stream_with_a_sentence(
    server: Server, messages: list[dict[str, Any] | bytes | str], code: int, sentence: str
) -> None:
    with opened(server) as stream:
        for message in messages:
            stream.send(json.dumps(message) if isinstance(message, dict) else message)
        assert (closed := closed_with(stream))[0] == code
        assert closed[1].startswith(sentence)


@pytest.mark.parametrize(
    ("message", "code"), [(b"\0", 1003), ("{}", 1008), (b"\0" * (MAX_MESSAGE_BYTES + 2), 1009)], ids=str
)
def test_turns_that_ended_before_a_wrong_message_are_answered(server: Server, message: bytes | str, code: int) -> None:
    five = np.concatenate([np.concatenate([voice(0.5), silence(0.9)])] * 5)
    with opened(server, {}) as stream:
        stream.send(five.tobytes())
        stream.send(voice(0.5).tobytes())  # a sixth turn, which is open
        stream.send(message)
        assert [json.loads(stream.recv(60))["turn"] for _ in range(5)] == list(range(5))
        assert closed_with(stream)[0] == code


def test_pages_of_other_hosts_and_other_paths_are_refused(server: Server) -> None:
    for path, origin in (
        ("/v1/stream", "https://evil.example.org"),
        ("/v1/stream", "http://["),
        ("/v2", server.url),
    ):
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(f"ws://127.0.0.1:{server.http_port}{path}", proxy=None, origin=Origin(origin)),
        ):
            pass
    with opened(server, {}, origin=Origin(server.url)):
        pass
    assert httpx.get(f"{server.url}/v1/stream").status_code == 404


def test_the_query_of_a_stream_is_not_logged(server: Server) -> None:
    url = f"ws://127.0.0.1:{server.http_port}/v1/stream?caller=jane-0041"
    with connect(url, proxy=None) as stream:
        stream.send(json.dumps({"type": "start"}))
        stream.recv(60)
    with pytest.raises(InvalidStatus), connect(url, proxy=None, origin=Origin("https://evil.example.org")):
        pass
    assert "jane-0041" not in server.log.read_text()


def metric(server: Server, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{server.url}/metrics", timeout=60).text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_further_streams_are_turned_away_and_disconnects_make_room(server: Server) -> None:
    wait_until(lambda: metric(server, "mistere_streams") == 0)
    connections = [opened(server, {}) for _ in range(8)]
    streams = [connection.__enter__() for connection in connections]
    with opened(server) as one_more:
        code, reason = closed_with(one_more)
        assert code == 1013 and reason.startswith("The server has its 8 streams already")
    send_audio(streams[0], voice(0.6))
    for stream in streams:
        stream.socket.shutdown(socket.SHUT_RDWR)  # without a close frame, within a turn
    wait_until(lambda: metric(server, "mistere_streams") == 0)
    with opened(server, {}):
        pass


def test_a_client_that_sends_faster_than_it_is_answered_waits(server: Server) -> None:
    samples = np.concatenate([np.concatenate([voice(0.5), silence(0.9)])] * 30)
    with opened(server, {}) as stream:
        send_audio(stream, samples, 32000)
        stream.send(json.dumps({"type": "end"}))
        assert [turn["turn"] for turn in rest_of(stream)] == list(range(30))


def test_a_client_that_leaves_while_turns_wait_leaves_no_stream_behind(server: Server) -> None:
    left = metric(server, 'mistere_streams_closed_total{code="1006"}')
    answered = metric(server, 'mistere_requests_total{code="200",protocol="stream"}')
    samples = np.concatenate([np.concatenate([voice(0.5), silence(0.9)])] * 14)
    with opened(server, {}) as stream:
        send_audio(stream, samples, 32000)
        stream.send(json.dumps({"type": "end"}))
        stream.recv(60)
        stream.socket.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: metric(server, "mistere_streams") == 0)
    assert metric(server, 'mistere_streams_closed_total{code="1006"}') == left + 1
    assert metric(server, 'mistere_requests_total{code="200",protocol="stream"}') > answered


def test_an_overlong_turn_is_cut_and_noise_is_none(server: Server) -> None:
    with opened(server, {}) as stream:  # this server takes utterances of 5 s
        send_audio(stream, np.concatenate([silence(1), voice(6.5), silence(1)]))
        stream.send(json.dumps({"type": "end"}))
        lengths = [turn["end"] - turn["start"] for turn in rest_of(stream)]
    assert len(lengths) == 2 and max(lengths) <= 5.0
    splitter = ChannelSplitter(1, 0.6, 5.0)
    noise = np.random.default_rng(0).normal(0, 40, 10 * RATE).astype("<i2")
    assert [*splitter.add(noise.tobytes()), *splitter.close()] == []


def test_pieces_of_any_size_give_the_same_turns() -> None:
    samples = call()
    cuts = []
    for piece in (7, 320, 16000):
        splitter = ChannelSplitter(2, 0.6, 5.0)
        cuts.append(
            [cut for at in range(0, len(samples), piece) for cut in splitter.add(samples[at : at + piece].tobytes())]
        )
    assert len(cuts[0]) == 3 and cuts[0] == cuts[1] == cuts[2]


@pytest.mark.long
def test_a_stop_answers_open_turns_and_closes_streams(bundle: str, tmp_path: Path) -> None:
    server = launch(["-m", "mistere.predictor"], bundle, tmp_path / "log", "--max-idle-seconds", "2")
    try:
        server.client.wait_ready(300)
        with opened(server, {}) as idle:
            assert closed_with(idle) == (1008, "No message arrived within 2 s.")
        with opened(server, {}) as stream:
            send_audio(stream, voice(1.0))
            server.process.terminate()
            assert json.loads(stream.recv(60))["turn"] == 0
            assert closed_with(stream) == (1001, "The server stops: open a new stream.")
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()
        server.process.wait()


def test_a_server_without_streams_ignores_the_offer(faulty: Server) -> None:
    with pytest.raises(InvalidStatus, match="404"), opened(faulty):
        pass


def test_the_client_of_the_guide_prints_labels(server: Server, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "streaming.md").read_text(encoding="utf-8")
    (program,) = [each for each in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "ws://" in each]
    (tmp_path / "call.wav").write_bytes(encoded(call(), RATE, "PCM_16"))
    result = subprocess.run(
        [sys.executable, "-c", program.replace("localhost:8080", f"127.0.0.1:{server.http_port}")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sum(result.stdout.count(label) for label in LABELS) == 3, result.stdout
