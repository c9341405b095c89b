"""Live audio over gRPC: the same answers, limits and sentences as over WebSocket, as gRPC statuses."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from mistere.data.kinds.audio import encoded
from mistere.predictor.settings import Limits
from mistere.predictor.stream import grpc_stream
from mistere.predictor.stream.grpc_stream import ClientMessage, GrpcStreams, ServerMessage, declared_file
from mistere.predictor.stream.messages import MAX_MESSAGE_BYTES
from mistere.predictor.stream.streams import Streams
from mistere.predictor.stream.turns import RATE
from tests.serving.conftest import LABELS, ROOT, Server, launch
from tests.serving.test_stream import call, metric, opened, rest_of, send_audio, silence, voice, wait_until
from tests.serving.test_stream_turns import Plane, as_plane, run

METHOD = f"/{grpc_stream.SERVICE}/Stream"
START: dict[str, Any] = {"type": "start"}
Content = dict[str, Any] | bytes | str


def encode(content: Content) -> bytes:
    """A message; a str stands for bytes that are no message, or for one of another kind."""
    if isinstance(content, str):
        return content.encode()
    message = ClientMessage(audio=content) if isinstance(content, bytes) else ClientMessage(control=json.dumps(content))
    return bytes(message.SerializeToString())


def stream(server: Server, messages: Iterator[Content], **options: Any) -> Any:
    channel = grpc.insecure_channel(server.grpc_target, options=[("grpc.max_receive_message_length", -1)])
    method = channel.stream_stream(METHOD, request_serializer=encode, response_deserializer=ServerMessage.FromString)
    return method(messages, timeout=120, **options)


def pieces(samples: np.ndarray, size: int = 3200) -> Iterator[bytes]:
    for at in range(0, len(samples), size):
        yield samples[at : at + size].tobytes()


def answers(messages: Any) -> list[dict[str, Any]]:
    return [json.loads(message.json) for message in messages]


def test_a_stream_over_grpc_gives_the_answers_of_a_web_socket(server: Server) -> None:
    begin: dict[str, Any] = {"channels": 2, "parameters": {"detail": True}}
    with opened(server, begin) as socket:
        send_audio(socket, call())
        socket.send(json.dumps({"type": "end"}))
        expected = rest_of(socket)
    ends: list[list[Content]] = [[], [{"type": "end"}]]
    for end in ends:  # without end, the client half-closes the call
        ready, *turns = answers(stream(server, iter([{**START, **begin}, *pieces(call()), *end])))
        assert ready["type"] == "ready" and ready["labels"].split(",") == LABELS
        assert len(turns) == len(expected) == 3
        for turn, other in zip(turns, expected, strict=True):
            np.testing.assert_allclose(turn.pop("probabilities"), other["probabilities"], atol=1e-4)
            assert {name: turn[name] for name in ("turn", "channel", "start", "end", "label")} == {
                name: other[name] for name in ("turn", "channel", "start", "end", "label")
            }


REFUSED: list[tuple[list[Content], str, str]] = [
    ([b"\0\0"], "INVALID_ARGUMENT", "The first message must be"),
    (["\xff\xff"], "INVALID_ARGUMENT", "The message is not a ClientMessage."),
    ([""], "INVALID_ARGUMENT", "The message has neither audio nor control."),
    ([{"type": "begin"}], "INVALID_ARGUMENT", "A message needs a type"),
    ([{**START, "model": "other"}], "INVALID_ARGUMENT", "No model of that name is served here."),
    ([START, b"\0"], "INVALID_ARGUMENT", "A binary message must hold whole samples"),
    ([START, b"\0" * (MAX_MESSAGE_BYTES + 2)], "RESOURCE_EXHAUSTED", "A message may have 262144 bytes"),
    ([START, b"\0" * (9 << 20)], "RESOURCE_EXHAUSTED", ""),
]


@pytest.mark.parametrize(("messages", "status", "sentence"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_message_ends_the_stream_with_a_status(
    server: Server, messages: list[Content], status: str, sentence: str
) -> None:
    with pytest.raises(grpc.RpcError) as ended:
        answers(stream(server, iter(messages)))
    assert ended.value.code().name == status and ended.value.details().startswith(sentence), ended.value


def test_turns_that_ended_before_a_wrong_message_are_answered(server: Server) -> None:
    five = np.concatenate([np.concatenate([voice(0.5), silence(0.9)])] * 5)
    received = []
    with pytest.raises(grpc.RpcError, match="A binary message must hold whole samples"):
        for message in stream(server, iter([START, five.tobytes(), b"\0"])):
            received.append(json.loads(message.json))  # noqa: PERF401  (what came before the error counts)
    assert [turn["turn"] for turn in received[1:]] == list(range(5))


def test_both_kinds_of_streams_share_one_limit_and_a_cancelled_call_makes_room(server: Server) -> None:
    wait_until(lambda: metric(server, "mistere_streams") == 0)
    left = metric(server, 'mistere_streams_closed_total{code="1006"}')
    release = threading.Event()

    def waiting() -> Iterator[Content]:
        yield START
        yield voice(0.6).tobytes()
        release.wait(60)

    calls = [stream(server, waiting()) for _ in range(7)]
    for each in calls:
        assert json.loads(next(each).json)["type"] == "ready"
    with opened(server, {}), pytest.raises(grpc.RpcError, match="The server has its 8 streams already") as refused:
        answers(stream(server, iter([START])))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    for each in calls:
        each.cancel()
    wait_until(lambda: metric(server, "mistere_streams") == 0)
    release.set()
    assert metric(server, 'mistere_streams_closed_total{code="1006"}') >= left + 7


class Deaf:
    """A call whose client sends, and reads no answer."""

    def __init__(self, *messages: Content) -> None:
        self.messages = [encode(message) for message in messages]
        self.ended: tuple[str, str] | None = None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def read(self) -> bytes:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)

    async def write(self, message: Any) -> None:
        await asyncio.Event().wait()

    async def abort(self, status: Any, sentence: str) -> None:
        self.ended = (status.name, sentence)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def work() -> tuple[str, str] | None:
        limits, deaf = replace(Limits(), body_seconds=0.05), Deaf(START)
        await GrpcStreams(Streams(as_plane(Plane()), limits), limits)._serve(None, deaf)
        return deaf.ended

    assert run(work()) == ("CANCELLED", "Nothing was read within 0.05 s.")


def test_a_server_without_streams_does_not_know_the_method(faulty: Server) -> None:
    with pytest.raises(grpc.RpcError) as ended:
        answers(stream(faulty, iter([START])))
    assert ended.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.long
def test_a_stop_answers_open_turns_and_ends_calls(bundle: str, tmp_path: Path) -> None:
    server = launch(["-m", "mistere.predictor"], bundle, tmp_path / "log", "--max-idle-seconds", "2")
    try:
        server.client.wait_ready(300)
        release = threading.Event()

        def silent() -> Iterator[Content]:
            yield START
            release.wait(60)

        with pytest.raises(grpc.RpcError, match="No message arrived within 2 s"):
            answers(stream(server, silent()))
        release.set()

        def talking() -> Iterator[Content]:
            yield START
            yield voice(1.0).tobytes()
            while server.process.poll() is None:
                time.sleep(0.1)
                yield silence(0.01).tobytes()

        messages = stream(server, talking())
        assert json.loads(next(messages).json)["type"] == "ready"
        time.sleep(0.5)
        server.process.terminate()
        assert json.loads(next(messages).json)["turn"] == 0
        with pytest.raises(grpc.RpcError, match="The server stops: open a new stream") as ended:
            next(messages)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()
        server.process.wait()


def test_the_published_description_is_what_the_server_reads(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "examples"
    described = tmp_path / "described"
    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={described}", "live_audio.proto"]) == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file
    assert [(service.name, [method.name for method in service.method]) for service in file.service] == [
        ("LiveAudio", ["Stream"])
    ]
    method = file.service[0].method[0]
    assert method.client_streaming and method.server_streaming
    del file.service[:]
    assert file == declared_file()


def test_the_grpc_client_of_the_guide_prints_labels(server: Server, tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "streaming.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    (program,) = [each for each in programs if "import grpc" in each]
    (tmp_path / "call.wav").write_bytes(encoded(call(), RATE, "PCM_16"))
    folder = ROOT / "docs" / "examples"
    options = [f"-I{folder}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", "live_audio.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options], check=True)
    result = subprocess.run(
        [sys.executable, "-c", program.replace("localhost:8081", server.grpc_target)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert sum(result.stdout.count(label) for label in LABELS) == 3, result.stdout
