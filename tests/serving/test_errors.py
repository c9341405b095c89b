"""Every row of the contract's table of errors, by REST and gRPC; no error reveals internals."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mistere.data.kinds.audio import encoded
from mistere.predictor.encoding.encoder import CachedEncoder
from mistere.predictor.errors import RequestError, log_value
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.settings import Limits
from tests.serving.conftest import Server, clip, wait_for_depth
from tests.serving.faulty_server import HOLD, FaultyModel

FORBIDDEN = ("Traceback", "Error", "Exception", "/srv", "/work", ".py", "site-packages", "secret")


def tensor(
    name: str, data: Any, shape: list[Any] | None = None, datatype: str = "BYTES", **parameters: Any
) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data, "parameters": parameters}


def audio(*clips: bytes) -> dict[str, Any]:
    return tensor("audio", [base64.b64encode(sound).decode() for sound in clips], content_type="base64")


def refused(response: httpx.Response, code: int, *words: str) -> None:
    assert response.status_code == code, response.text
    content = response.json()
    assert set(content) == {"error"}
    for word in words:
        assert word in content["error"]
    assert not any(word in content["error"] for word in FORBIDDEN), content


def infer(server: Server, *inputs: dict[str, Any], **extra: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/models/mistere/infer", json={"inputs": list(inputs), **extra}, timeout=30)


HI = tensor("text", ["hi"])
VECTOR = [[0.5] * 16]
DIGEST = {"encoder_digest": "t" * 64}

MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": []}, "no input"),
    "inputs missing": ({}, "inputs"),
    "inputs no objects": ({"inputs": ["text"]}, "inputs"),
    "no utterance": ({"inputs": [tensor("text", [])]}, "no utterance"),
    "nothing in it": ({"inputs": [tensor("text", ["", " \u200b "])]}, "anything this model reads"),
    "unknown tensor": ({"inputs": [HI, tensor("video", ["x"])]}, "video"),
    "tensor twice": ({"inputs": [HI, HI]}, "twice"),
    "wrong datatype": ({"inputs": [tensor("text", [1], datatype="INT32")]}, "BYTES"),
    "wrong rank": ({"inputs": [tensor("text", ["a"], [1, 1, 1])]}, "[n]"),
    "shape too large": ({"inputs": [tensor("text", ["a"], [10**9])]}, "elements of its shape"),
    "negative shape": ({"inputs": [tensor("text", ["a"], [-1])]}, "[n]"),
    "shape no number": ({"inputs": [tensor("text", ["a"], ["1"])]}, "[n]"),
    "not a string": ({"inputs": [tensor("text", [["a"]])]}, "not a string"),
    "lengths differ": ({"inputs": [HI, audio(b"", b"")]}, "lengths differ"),
    "audio without content type": ({"inputs": [tensor("audio", ["UklGRg=="])]}, "content_type"),
    "wrong base64": ({"inputs": [tensor("audio", ["***"], content_type="base64")]}, "base64"),
    "audio in two ways": (
        {"inputs": [audio(b"RIFF"), tensor("audio_digest", ["a" * 64])]},
        "more than one of",
    ),
    "no digest": ({"inputs": [tensor("audio_digest", ["../etc"])]}, "SHA-256"),
    "uri switched off": ({"inputs": [tensor("audio_uri", ["http://169.254.169.254/x"])]}, "not enabled"),
    "detail no bool": ({"inputs": [HI], "parameters": {"detail": "yes"}}, "detail"),
    "id no string": ({"inputs": [HI], "id": 7}, "id"),
    "id too long": ({"inputs": [HI], "id": "x" * 300}, "id"),
    "unknown output": ({"inputs": [HI], "outputs": [{"name": "mood"}]}, "mood"),
    "no encoder digest": ({"inputs": [tensor("text_embedding", VECTOR, [1, 16], "FP32")]}, "encoder_digest"),
    "wrong encoder digest": (
        {"inputs": [tensor("text_embedding", VECTOR, [1, 16], "FP32")], "parameters": {"encoder_digest": "x"}},
        "encoder_digest",
    ),
    "wrong width": ({"inputs": [tensor("text_embedding", [[1.0]], [1, 1], "FP32")], "parameters": DIGEST}, "16"),
    "ragged": ({"inputs": [tensor("text_embedding", [[1], [1, 2]], [2, 16], "FP32")], "parameters": DIGEST}, "shape"),
    "strings as numbers": (
        {"inputs": [tensor("text_embedding", [["1"] * 16], [1, 16], "FP32")], "parameters": DIGEST},
        "numbers",
    ),
    "overflow": ({"inputs": [tensor("text_embedding", [[1e300] * 16], [1, 16], "FP32")], "parameters": DIGEST}, "NaN"),
    "huge shape": ({"inputs": [tensor("text_embedding", VECTOR, [10**9, 16], "FP32")], "parameters": DIGEST}, "shape"),
    "mixed": (
        {"inputs": [HI, tensor("text_embedding", VECTOR, [1, 16], "FP32")], "parameters": DIGEST},
        "one or the other",
    ),
    "parameters no object": ({"inputs": [HI], "parameters": [1]}, "parameters"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_are_400(server: Server, case: str) -> None:
    body, word = MALFORMED[case]
    refused(httpx.post(f"{server.url}/v2/models/mistere/infer", json=body), 400, word)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100000, b'{"inputs": NaN}', b'{"inputs": [{"name": "\\ud800"}]}']
)
@pytest.mark.parametrize("path", ["/v2/models/mistere/infer", "/v1/models/mistere:predict"])
def test_bodies_that_are_not_json_are_400(server: Server, path: str, body: bytes) -> None:
    refused(httpx.post(server.url + path, content=body, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"instances": []},
        {"instances": "x"},
        {"instances": [1]},
        {"instances": [{"utterances": "x"}]},
        {"instances": [{"utterances": []}]},
        {"instances": [{"utterances": [{"text": 1}]}]},
        {"instances": [{"utterances": [{"speech": "x"}]}]},
        {"instances": [{"utterances": [{}]}]},
        {"instances": [{"utterances": [{"audio": "*"}]}]},
        {"instances": [{"utterances": [{"text": "a"}]}], "parameters": {"detail": 1}},
    ],
)
def test_malformed_v1_is_400(server: Server, body: dict[str, Any]) -> None:
    refused(httpx.post(f"{server.url}/v1/models/mistere:predict", json=body), 400)


@pytest.mark.parametrize("header", ["-1", "x", "99999999", "1e2", "3"])
def test_a_wrong_binary_header_is_400(server: Server, header: str) -> None:
    body = json.dumps({"inputs": [HI]}).encode()
    headers = {"Inference-Header-Content-Length": header}
    refused(httpx.post(f"{server.url}/v2/models/mistere/infer", content=body, headers=headers), 400)


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (struct.pack("<I", 4_000_000_000) + b"x", None),
        (b"\x01", None),
        (struct.pack("<I", 2) + b"\xff\xfe", None),
        (b"abcd", 10**9),
        (b"abcd", -1),
        (b"abcd", 2),
    ],
)
def test_inconsistent_binary_tensors_are_400(server: Server, raw: bytes, size: int | None) -> None:
    parameters = {"binary_data_size": len(raw) if size is None else size}
    head = json.dumps(
        {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "parameters": parameters}]}
    ).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    refused(httpx.post(f"{server.url}/v2/models/mistere/infer", content=head + raw, headers=headers), 400)


def huge_rate() -> bytes:
    """A WAV header with a rate of 2 GHz."""
    sound = bytearray(clip(0.6))
    sound[24:28] = struct.pack("<I", 2**31 - 1)
    return bytes(sound)


@pytest.mark.parametrize(
    "sound",
    [
        b"junk",
        b"RIFFjunk",
        clip()[:40],
        clip(0.6, file_format="MP3")[:8],
        huge_rate(),
        encoded(np.full(9600, 1e18, np.float32), 16000, "FLOAT"),
    ],
)
def test_unsupported_audio_is_415(server: Server, sound: bytes) -> None:
    refused(infer(server, HI | {"shape": [2], "data": ["hi", "ho"]}, audio(b"", sound)), 415, "utterance 1")


class OverflowingModel(FaultyModel):
    """A model whose encoder overflows at some texts, as half precision does."""

    def vectors(self, features: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        rows = {"overflow": [np.nan, 0.5], "infinite": [0.5, np.inf]}
        return {"text": np.array([rows.get(text, [0.25, 0.5]) for text in features["text"]], np.float32)}


@pytest.mark.parametrize("text", ["overflow", "infinite"])
def test_an_encoder_that_overflows_is_an_error_and_no_missing_modality(text: str) -> None:
    encoder = CachedEncoder(cast(Any, OverflowingModel()), Limits(), Pace())
    plans = [encoder.plan([[RequestTurn(text=words) for words in said]]) for said in (["Hi.", text], ["Hi.", "Ho."])]
    for _ in range(2):  # nothing of it is kept in the cache
        encoder.compute([task for plan in plans for task in plan.missing()])
        failed, answered = (encoder.embeddings(plan) for plan in plans)
        assert isinstance(failed, RequestError) and failed.code == 500
        assert failed.message.startswith("The model's text encoder overflows at utterance 1")
        assert not isinstance(answered, Exception) and np.isfinite(answered[0]["text"]).all(), "others are answered"
        plans[0] = encoder.plan([[RequestTurn(text="Hi."), RequestTurn(text=text)]])


def test_unknown_model_and_path_are_404(server: Server) -> None:
    refused(httpx.post(f"{server.url}/v2/models/other/infer", json={"inputs": [HI]}), 404)
    refused(httpx.post(f"{server.url}/v1/models/other:predict", json={}), 404)
    refused(httpx.get(f"{server.url}/v2/models/other"), 404)
    refused(httpx.get(f"{server.url}/v2/models/..%2f..%2fetc"), 404)
    refused(httpx.get(f"{server.url}/nowhere"), 404)
    refused(httpx.get(f"{server.url}/v2/models/mistere/infer"), 405)


def test_unknown_digest_is_409_and_named(server: Server) -> None:
    digests = tensor("audio_digest", ["", "a" * 64, "b" * 64])
    refused(infer(server, tensor("text", ["x", "", ""]), digests), 409, "1 (aaaa", "2 (bbbb")


def test_over_a_limit_is_413(server: Server) -> None:
    refused(infer(server, audio(clip(5.2))), 413, "5 seconds")
    refused(infer(server, tensor("text", ["x"] * 129)), 413, "128")
    many = {"instances": [{"utterances": [{"text": "x"}] * 100}] * 2}
    refused(httpx.post(f"{server.url}/v1/models/mistere:predict", json=many), 413, "128")
    large = b"x" * (9 << 20)
    refused(httpx.post(f"{server.url}/v2/models/mistere/infer", content=large), 413, "bytes")
    chunks = (large[:65536] for _ in range(144))
    refused(httpx.post(f"{server.url}/v2/models/mistere/infer", content=chunks), 413, "bytes")


def test_values_equal_to_a_limit_are_accepted(server: Server) -> None:
    assert infer(server, tensor("text", ["x"] * 128)).status_code == 200
    assert infer(server, audio(clip(5.0))).status_code == 200


def call(server: Server, message: pb.ModelInferRequest | bytes) -> grpc.RpcError:
    with grpc.insecure_channel(server.grpc_target) as channel:
        if isinstance(message, bytes):
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        else:
            method = GRPCInferenceServiceStub(channel).ModelInfer
        with pytest.raises(grpc.RpcError) as refusal:
            method(message, timeout=20)
    assert not any(word in refusal.value.details() for word in FORBIDDEN), refusal.value.details()
    return refusal.value


def message(
    texts: list[bytes], model: str = "mistere", name: str = "text", datatype: str = "BYTES"
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype, shape=[len(texts)]).contents.bytes_contents.extend(texts)
    return request


def mismatched() -> pb.ModelInferRequest:
    request = message([b"x"])
    request.raw_input_contents.extend([b"", b""])
    return request


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"\xff\xff\xff", "INVALID_ARGUMENT", id="no message"),
        pytest.param(message([]), "INVALID_ARGUMENT", id="no texts"),
        pytest.param(message([b"x"], name="video"), "INVALID_ARGUMENT", id="unknown tensor"),
        pytest.param(message([b"x"], datatype="INT8"), "INVALID_ARGUMENT", id="unknown datatype"),
        pytest.param(message([b"\xff"]), "INVALID_ARGUMENT", id="text that is no UTF-8"),
        pytest.param(mismatched(), "INVALID_ARGUMENT", id="contents twice"),
        pytest.param(message([b"junk"], name="audio"), "INVALID_ARGUMENT", id="audio that is none"),
        pytest.param(message([b"x"], model="other"), "NOT_FOUND", id="another model"),
        pytest.param(message([b"a" * 64], name="audio_digest"), "FAILED_PRECONDITION", id="unknown digest"),
        pytest.param(message([b"x"] * 129), "RESOURCE_EXHAUSTED", id="too many utterances"),
        pytest.param(message([clip(5.2)], name="audio"), "RESOURCE_EXHAUSTED", id="too much audio"),
        pytest.param(message([b"x" * (9 << 20)]), "RESOURCE_EXHAUSTED", id="too many bytes"),
    ],
)
def test_grpc_statuses(server: Server, request_: pb.ModelInferRequest | bytes, status: str) -> None:
    assert call(server, request_).code().name == status


def faulty_infer(server: Server, text: str, model: str = "mistere", **headers: str) -> httpx.Response:
    body = {"inputs": [tensor("text", [text])]}
    return httpx.post(f"{server.url}/v2/models/{model}/infer", json=body, headers=headers, timeout=120)


def test_an_internal_error_is_500_with_only_the_id(faulty: Server) -> None:
    refused(faulty_infer(faulty, "crash", **{"X-Request-Id": "call-9"}), 500, "call-9")
    status = call(faulty, message([b"crash"]))
    assert status.code() is grpc.StatusCode.INTERNAL
    log = faulty.log.read_text()
    assert "request=call-9 failed: RuntimeError" in log
    assert "secret" not in log


def test_an_internal_error_has_the_id_of_the_body(faulty: Server) -> None:
    """It is the one of the request's line in the log of requests, and of its answer if there were one."""
    header = {"X-Request-Id": "call-9"}
    v2 = {"inputs": [tensor("text", ["crash"])], "id": "call-10"}
    v1 = {"instances": [{"utterances": [{"text": "crash"}]}], "id": "call-11"}
    for path, body in (("v2/models/mistere/infer", v2), ("v1/models/mistere:predict", v1)):
        response = httpx.post(f"{faulty.url}/{path}", json=body, headers=header, timeout=120)
        refused(response, 500, f"its id is {body['id']}.")
    request = message([b"crash"])
    request.id = "call-12"
    assert "its id is call-12." in call(faulty, request).details()
    log = faulty.log.read_text()
    assert all(f"request=call-{number} failed: RuntimeError" in log for number in (10, 11, 12))


def test_overload_is_429_and_others_are_still_served(faulty: Server, tmp_path: Path) -> None:
    held_text = f"{HOLD}{tmp_path / 'release'}"
    with ThreadPoolExecutor(2) as pool:
        try:
            computed = pool.submit(faulty_infer, faulty, held_text)
            wait_for_depth(faulty, 1)
            waiting = pool.submit(faulty_infer, faulty, held_text)
            wait_for_depth(faulty, 2)
            rejected = faulty_infer(faulty, held_text)
            by_grpc = call(faulty, message([held_text.encode()]))
            assert httpx.get(f"{faulty.url}/v2/health/ready", timeout=120).status_code == 200
            assert not computed.done() and not waiting.done()
        finally:
            (tmp_path / "release").touch()
        assert [computed.result().status_code, waiting.result().status_code] == [200, 200]
    refused(rejected, 429)
    assert int(rejected.headers["Retry-After"]) >= 1
    assert by_grpc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert faulty_infer(faulty, "hi").status_code == 200


def test_an_expert_the_model_lacks_has_its_column(faulty: Server) -> None:
    outputs = {output["name"]: output for output in faulty_infer(faulty, "hi").json()["outputs"]}
    assert outputs["expert_weights"]["data"] == [0.0, 0.5, 0.5]


def test_a_body_that_does_not_arrive_times_out(faulty: Server) -> None:
    connection = HTTPConnection("127.0.0.1", faulty.http_port, timeout=120)
    try:
        connection.putrequest("POST", "/v2/models/mistere/infer")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b'{"inputs":')  # the rest of the body is never sent
        answer = connection.getresponse()
        refused(httpx.Response(answer.status, content=answer.read()), 408)
    finally:
        connection.close()


def test_payloads_are_not_logged(server: Server) -> None:
    infer(server, tensor("text", ["a very private sentence"]), id="logged-id")
    infer(server, tensor("a very private tensor", ["x"]))
    log = server.log.read_text()
    assert "request=logged-id utterances=1" in log
    assert "private" not in log


FORGED_IDS = [
    "1 utterances=9",
    "1\nrequest=2 utterances=9",
    'a"b',
    "a\\b",
    "a=b",
    "\u00e4\u202e",
    "\t\r",
    "",
    "x" * 300,
    "call-9_a.b:c/d@e+f",
]


@pytest.mark.parametrize("given", FORGED_IDS, ids=repr)
def test_a_logged_value_has_neither_spaces_nor_line_breaks_outside_quotes(given: str) -> None:
    logged = log_value(given)
    assert logged.isascii() and logged.isprintable()
    if given == FORGED_IDS[-1]:
        assert logged == given
    elif logged.startswith('"'):
        assert json.loads(logged) == given[:64]
    else:
        assert logged == given[:64] and not set(logged) & set(' ="\\')


def test_a_client_cannot_forge_fields_or_lines_of_the_log(server: Server, faulty: Server) -> None:
    header = {"X-Request-Id": "7 utterances=99 labels=joy:99"}
    assert httpx.post(f"{server.url}/v2/models/mistere/infer", json={"inputs": [HI]}, headers=header).status_code == 200
    infer(server, HI, id="8\nrequest=9 utterances=98 labels=joy:98")
    faulty_infer(faulty, "crash", **header)
    log = server.log.read_text()
    assert 'request="7 utterances=99 labels=joy:99" utterances=1' in log
    assert 'request="8\\nrequest=9 utterances=98 labels=joy:98" utterances=1' in log
    assert 'request="7 utterances=99 labels=joy:99" failed: RuntimeError' in faulty.log.read_text()
