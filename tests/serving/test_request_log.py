"""The log of requests of a real predictor: every protocol, refusals included, and nothing of what clients send."""

from __future__ import annotations

import base64
import gzip
import json
import time
import uuid
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from mistere.artifacts.object_store import LocalStore
from mistere.serving.request_log.files import read_log
from mistere.serving.request_log.line import LoggedRequest
from tests.local.workshop import mistere_in_process
from tests.serving.conftest import LABELS, Server, clip
from tests.serving.test_stream import opened, silence, voice

SECRET = "canary-4711-buried"


@pytest.fixture(scope="module")
def store(bundle: str) -> LocalStore:
    return LocalStore(Path(bundle).parents[2])


def lines(store: LocalStore) -> list[LoggedRequest]:
    return list(read_log(store, time.time() - 7200, time.time(), pytest.fail))


def wait_for(store: LocalStore, identity: str) -> LoggedRequest:
    deadline = time.monotonic() + 60
    while (found := next((line for line in lines(store) if line.id == identity), None)) is None:
        assert time.monotonic() < deadline, f"{identity} was not logged"
        time.sleep(0.1)
    return found


def infer(
    server: Server, body: Any, headers: dict[str, str] | None = None, path: str = "v2/models/mistere/infer"
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server.url}/{path}", content=content, headers=headers, timeout=60)


def texts(*values: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "shape": [len(values)], "datatype": "BYTES", "data": list(values)}], **more}


def by_grpc(server: Server, request: pb.ModelInferRequest, **metadata: str) -> grpc.StatusCode:
    with grpc.insecure_channel(server.grpc_target) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString)
        try:
            call(request, timeout=60, metadata=list(metadata.items()))
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_every_protocol_is_logged(server: Server, store: LocalStore, bundle: str) -> None:
    ids = {name: str(uuid.uuid4()) for name in ("rest_v2", "rest_v1", "grpc")}
    dialogue = texts("Where have you been?", "At home.", id=ids["rest_v2"], parameters={"dialogue_id": "call-1"})
    dialogue["inputs"].append({"name": "predict", "shape": [2], "datatype": "BOOL", "data": [False, True]})
    assert infer(server, dialogue).status_code == 200
    turns = [{"text": "Hello."}, {"audio": base64.b64encode(clip(0.6, pitch=431)).decode()}]
    v1 = {"instances": [{"utterances": turns}] * 2, "parameters": {"explain": False, "detail": "explain"}}
    assert infer(server, v1, {"X-Request-Id": ids["rest_v1"]}, "v1/models/mistere:predict").status_code == 200
    request = pb.ModelInferRequest(model_name="mistere", id=ids["grpc"])
    request.inputs.add(name="text", shape=[1], datatype="BYTES").contents.bytes_contents.append(b"Yes?")
    assert by_grpc(server, request) == grpc.StatusCode.OK
    found = {name: wait_for(store, identity) for name, identity in ids.items()}
    assert {name: (line.protocol, line.code) for name, line in found.items()} == {
        "rest_v2": ("rest_v2", "200"),
        "rest_v1": ("rest_v1", "200"),
        "grpc": ("grpc", "OK"),
    }
    line = found["rest_v2"]
    assert (line.bundle, line.labels, line.model) == (Path(bundle).name, LABELS, "mistere")
    assert line.sizes == {"bytes": line.sizes["bytes"], "dialogues": 1, "utterances": 2, "texts": 2, "recordings": 0}
    assert line.sizes["bytes"] == len(json.dumps(dialogue)) and line.options == []
    (turn,) = line.turns
    assert (turn.turn, turn.modalities) == (1, "text") and abs(sum(turn.probabilities) - 1) < 1e-4
    assert turn.label == LABELS[turn.probabilities.index(max(turn.probabilities))]
    assert set(line.phases) == {"decode", "queue", "encode", "mixture", "respond"}
    assert 0 < line.phases["mixture"] < line.seconds < 60 and line.dialogue.startswith("hash:")
    other = found["rest_v1"]
    assert [(turn.dialogue, turn.turn) for turn in other.turns] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {"detail", "explain"} <= set(other.options) and other.sizes["recordings"] == 2 and not other.dialogue


def test_a_turn_of_a_stream_is_logged(server: Server, store: LocalStore) -> None:
    before = sum(line.protocol == "stream" for line in lines(store))
    with opened(server, {"channels": 1}) as stream:
        stream.send(voice(0.9, 171).tobytes() + silence(0.9).tobytes())
        assert json.loads(stream.recv(60))["type"] == "turn"
    deadline = time.monotonic() + 60
    while len(found := [line for line in lines(store) if line.protocol == "stream"]) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found[-1].code == "200" and len(found[-1].turns) == 1


def test_refusals_are_logged_with_their_reason(server: Server, store: LocalStore) -> None:
    audio = {"inputs": [{"name": "audio", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}]}
    audio["inputs"][0]["parameters"] = {"content_type": "base64"}  # type: ignore[assignment]
    refused: list[tuple[Any, str, int, str]] = [
        (b"{", "v2/models/mistere/infer", 400, "The body is not valid JSON in UTF-8."),
        (texts("x"), "v2/models/other/infer", 404, "No model of that name is served here."),
        (texts("x", outputs=[{"name": SECRET}]), "v2/models/mistere/infer", 400, "Unknown output …; known: "),
        (audio, "v2/models/mistere/infer", 415, "The audio of utterance 0 does not decode"),
        (
            {"instances": []},
            "v1/models/mistere:predict",
            400,
            'The body must be {"instances": [{"utterances": [...]}]}',
        ),
    ]
    for body, path, code, sentence in refused:
        identity = str(uuid.uuid4())
        assert infer(server, body, {"X-Request-Id": identity}, path).status_code == code
        line = wait_for(store, identity)
        assert line.code == str(code) and line.error.startswith(sentence) and line.failed and not line.turns
    request = pb.ModelInferRequest(model_name="mistere", id=(identity := str(uuid.uuid4())))
    assert by_grpc(server, request) == grpc.StatusCode.INVALID_ARGUMENT
    assert wait_for(store, identity).code == "INVALID_ARGUMENT"


def test_nothing_that_a_client_sends_is_in_the_log(server: Server, store: LocalStore) -> None:
    digest = "4711" * 16
    bodies: list[Any] = [
        texts(SECRET, id=SECRET, parameters={"dialogue_id": SECRET, "consent": False}),
        texts(SECRET, id=f"{SECRET} 'x", parameters={SECRET: SECRET}),
        texts(SECRET, parameters={SECRET: [SECRET]}),
        texts(SECRET, parameters={"detail": SECRET}),
        texts(SECRET, outputs=[{"name": f"{SECRET}'\""}]),
        texts("x", outputs=[{"name": f'"{SECRET}'}]),
        {"inputs": [{"name": SECRET, "shape": [1], "datatype": "BYTES", "data": [SECRET]}]},
        {"inputs": [{"name": SECRET, "shape": [1], "datatype": SECRET, "data": [SECRET]}]},
        {"inputs": [{"name": "text", "shape": [SECRET], "datatype": "BYTES", "data": [SECRET]}]},
        {"inputs": [{"name": "text", "shape": [1], "datatype": SECRET, "data": [SECRET]}]},
        {"inputs": [{"name": "text_embedding", "shape": [1, 16], "datatype": "FP32", "data": [SECRET] * 16}]},
        {"inputs": [{"name": "audio", "shape": [1], "datatype": "BYTES", "data": [SECRET]}]},
        {"inputs": [{"name": "audio_digest", "shape": [1], "datatype": "BYTES", "data": [digest]}]},
        {"inputs": [{"name": "audio_uri", "shape": [1], "datatype": "BYTES", "data": [f"s3://{SECRET}/a?{SECRET}"]}]},
        SECRET.encode(),
        {SECRET: SECRET},
    ]
    headers = {
        "X-Request-Id": SECRET,
        "traceparent": SECRET,
        "Authorization": SECRET,
        "User-Agent": SECRET,
        "X-Forwarded-For": "198.51.100.47",
    }
    v1: list[Any] = [
        {"instances": [{"utterances": [{"text": SECRET, SECRET: SECRET}]}]},
        {"instances": [{"utterances": [{"text": SECRET}]}], "id": SECRET, "parameters": {"dialogue_id": SECRET}},
        {"instances": [{"utterances": [{"audio": SECRET}]}]},
        {"instances": [{"utterances": [{"audio_digest": digest}]}]},
        {"instances": SECRET},
    ]
    codes = {infer(server, body, headers, f"v2/models/mistere/infer?{SECRET}").status_code for body in bodies}
    codes |= {infer(server, body, headers, f"v1/models/mistere:predict?{SECRET}").status_code for body in v1}
    codes.add(infer(server, texts(SECRET), headers, f"v2/models/{SECRET}/infer").status_code)
    codes.add(infer(server, texts(SECRET), headers, f"v2/models/mistere/versions/{SECRET}/infer").status_code)
    codes.add(infer(server, texts(SECRET), {**headers, "Content-Encoding": SECRET}).status_code)
    codes.add(infer(server, texts(SECRET), {**headers, "Inference-Header-Content-Length": SECRET}).status_code)
    assert codes == {200, 400, 404, 409, 415}
    for name in ("text", SECRET):
        request = pb.ModelInferRequest(model_name="mistere", id=SECRET)
        request.inputs.add(name=name, shape=[1], datatype="BYTES").contents.bytes_contents.append(SECRET.encode())
        by_grpc(server, request, authorization=SECRET, traceparent=SECRET)
    last = str(uuid.uuid4())
    assert infer(server, texts("The end."), {"X-Request-Id": last}).status_code == 200
    wait_for(store, last)
    names = list(store.keys("requests"))
    contents = [store.read(name)[0] for name in names]
    everything = b"".join(
        gzip.decompress(data) if name.endswith(".gz") else data for name, data in zip(names, contents, strict=True)
    )
    assert last.encode() in everything
    for secret in (
        SECRET,
        SECRET.split("-")[-1],
        digest,
        "198.51.100",
        "127.0.0.1",
        base64.b64encode(SECRET.encode()).decode(),
    ):
        assert secret.encode() not in everything and not any(secret in name for name in names), secret
    hashed = mistere_in_process(
        "traffic", "log", "--request", SECRET, "--json", "--limit", "0", "--store", str(store.root)
    )
    found = [json.loads(line) for line in hashed.stdout.splitlines()]
    assert len(found) >= 20 and {line["id"] for line in found} == {found[0]["id"]} and SECRET not in hashed.stdout
    named = mistere_in_process("traffic", "log", "--dialogue", SECRET, "--store", str(store.root))
    assert named.returncode == 0 and len(named.stdout.splitlines()) == 3, named.stdout
