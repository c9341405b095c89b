"""Hostile requests: the server rejects or answers them fast, in bounded memory, and keeps running."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import select
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import soundfile
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from starlette.requests import Request

from mistere.model.inference import load_bundle
from mistere.predictor.encoding.encoder import CachedEncoder
from mistere.predictor.errors import RequestError
from mistere.predictor.protocol import rest
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.settings import Limits
from tests.serving.conftest import Server, Utterance, clip, cpu_seconds, launch, make_bundle, peak
from tests.serving.test_errors import DIGEST, FORBIDDEN, HI, audio, call, infer, message, refused, tensor

MIB = 1 << 20
SERVICE = "/inference.GRPCInferenceService/"
INFER = "/v2/models/mistere/infer"


@pytest.fixture(scope="module")
def s3_calls() -> Iterator[tuple[str, list[str]]]:
    """A stand-in for S3 that records its requests."""
    requested_paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested_paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", requested_paths
    http.shutdown()
    http.server_close()


@pytest.fixture(scope="module")
def target(
    bundle: str, dialogue: list[Utterance], s3_calls: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that reads ``audio_uri``, with short timeouts; afterwards the same process still gives the same predictions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", s3_calls[0])
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        options = ("--max-seconds", "5", "--max-body-seconds", "2", "--audio-uri-prefix", "s3://calls/in/")
        log = tmp_path_factory.mktemp("hostile") / "server.log"
        started = launch(["-m", "mistere.predictor"], bundle, log, *options)
    started.client.wait_ready(300)
    first = started.client.predict_v1(dialogue)
    yield started
    assert started.process.poll() is None
    last = started.client.predict_v1(dialogue)
    np.testing.assert_allclose(last.probabilities, first.probabilities, atol=1e-5)
    assert started.client.predict_grpc(dialogue).predicted == first.predicted
    assert started.terminate() == 0
    assert "Traceback" not in started.log.read_text()


def raw(server: Server, sent: bytes, half_close: bool = False, port: int | None = None) -> bytes:
    """Send bytes and return the response, read until the server is silent for one second."""
    received = b""
    with socket.create_connection(("127.0.0.1", port or server.http_port), timeout=60) as connection:
        connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(1)
        try:
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def with_bytes(header: bytes, at: int, value: bytes) -> bytes:
    """An encoded file with some bytes of its header overwritten."""
    return header[:at] + value + header[at + len(value) :]


def silence(seconds: int, rate: int, file_format: str) -> bytes:
    """An encoded file of silence, up to hours long."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, format=file_format) as encoder:
        block = np.zeros(rate * 60, dtype=np.float32)
        for _ in range(seconds // 60):
            encoder.write(block)
    return file.getvalue()


WAV, FLAC, OGG = clip(0.6), clip(0.6, file_format="FLAC"), clip(0.6, file_format="OGG")
FLOATS = np.array([0.1, np.nan, np.inf, -np.inf] * 4000, dtype=np.float32)


def float_wav(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="WAV", subtype="FLOAT")
    return file.getvalue()


SOUNDS: dict[str, tuple[bytes | Callable[[], bytes], set[int]]] = {
    "wav header alone": (WAV[:44], {415}),
    "wav cut in a sample": (WAV[:1001], {200}),
    "wav says 4 GB": (with_bytes(WAV, 40, b"\xff" * 4), {200}),
    "wav says 2 GB in all": (with_bytes(WAV, 4, b"\xff\xff\xff\x7f"), {200}),
    "wav of no channel": (with_bytes(WAV, 22, b"\x00\x00"), {415}),
    "wav of 65535 channels": (with_bytes(WAV, 22, b"\xff\xff"), {415}),
    "wav of rate 0": (with_bytes(WAV, 24, b"\x00" * 4), {415}),
    "wav of 0 bits": (with_bytes(WAV, 34, b"\x00\x00"), {200, 415}),
    "wav of 65535 bits": (with_bytes(WAV, 34, b"\xff\xff"), {415}),
    "wav of an unknown codec": (with_bytes(WAV, 20, b"\x37\x13"), {415}),
    "wav with a format of 4 GB": (with_bytes(WAV, 16, b"\xff" * 4), {415}),
    "rf64 of 2^60 bytes": (
        b"RF64" + WAV[4:12] + b"ds64" + struct.pack("<IQQQI", 28, *[1 << 60] * 3, 0) + WAV[12:],
        {200, 415},
    ),
    "wav of NaN and infinity": (float_wav(FLOATS), {415}),
    "wav of 1e38": (float_wav(np.full(16000, 1e38, dtype=np.float32)), {200, 415}),
    "flac marker alone": (FLAC[:4], {415}),
    "flac cut in the header": (FLAC[:30], {415}),
    "flac cut in a frame": (FLAC[: len(FLAC) // 2], {200, 415}),
    "flac of 2^36 samples": (with_bytes(FLAC, 21, bytes([FLAC[21] | 15]) + b"\xff" * 4), {200, 413, 415}),
    "flac of a comment of 16 MB": (FLAC[:42] + b"\x84\xff\xff\xff" + FLAC[46:], {200, 415}),
    "ogg page alone": (OGG[:58], {415}),
    "ogg cut in the codebook": (OGG[:2000], {415}),
    "ogg cut in a page": (OGG[:-500], {200, 415}),
    "ogg of 255 channels": (with_bytes(OGG, 39, b"\xff"), {415}),
    "ogg twice": (OGG * 2, {200, 413, 415}),
    "ogg that ends in the year 10^6": (
        with_bytes(OGG, OGG.rindex(b"OggS") + 6, b"\xff" * 7 + b"\x7f"),
        {200, 413, 415},
    ),
    "two hours of flac": (lambda: silence(7200, 1000, "FLAC"), {413}),
    "twenty minutes of ogg": (lambda: silence(1200, 8000, "OGG"), {413}),
    "7 MiB of a repeated wav marker": (b"RIFF" * (MIB * 5 // 4), {415}),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_hostile_audio_is_processed_fast_and_in_bounded_memory(target: Server, name: str) -> None:
    content, codes = SOUNDS[name]
    sound = content() if callable(content) else content
    before, start = peak(target), cpu_seconds(target)
    response = httpx.post(f"{target.url}{INFER}", json={"inputs": [audio(sound)]}, timeout=120)
    assert response.status_code in codes, (name, response.text)
    assert cpu_seconds(target) - start < 10
    assert peak(target) - before < 150 * MIB
    status = "OK" if response.status_code == 200 else "INVALID_ARGUMENT RESOURCE_EXHAUSTED"
    assert by_grpc(target, message([sound], name="audio")) in status


def by_grpc(server: Server, request: Any, method: str = "ModelInfer", **options: Any) -> str:
    """The status of a call."""
    sent = request if isinstance(request, bytes) else request.SerializeToString()
    with grpc.insecure_channel(server.grpc_target) as channel:
        try:
            channel.unary_unary(SERVICE + method)(sent, timeout=120, **options)
        except grpc.RpcError as error:
            assert not any(word in error.details() for word in FORBIDDEN), error.details()
            return str(error.code().name)
    return "OK"


def test_many_small_files_with_large_decoded_size_stay_within_bounds(target: Server) -> None:
    bomb = clip(4.9, 384000, "FLAC", 2, 0)
    before = peak(target)
    assert infer(target, audio(*[bomb] * 32)).status_code == 200
    assert peak(target) - before < 500 * MIB


def failing_late(count: int) -> list[bytes]:
    """Recordings that each decode to 15 MB and fail at the last frame."""
    whole = clip(4.9, 384000, "FLAC", 2, 0)
    return [whole[:-2] + bytes([0xA5, number]) for number in range(count)]


def test_recordings_that_fail_late_do_not_stay_in_memory_decoded(bundle: str) -> None:
    """An exception's traceback would keep the samples until the answer."""
    encoder = CachedEncoder(load_bundle(bundle), Limits(), Pace())
    plan = encoder.plan([[RequestTurn(audio=recording) for recording in failing_late(4)]])
    encoder.price_clips(plan)
    tracemalloc.start()
    try:
        encoder.compute(plan.missing())
        held, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(plan.failures) == 4
    assert highest > 14 * 10**6 and held < 10**6


def test_recordings_that_fail_late_are_rejected_in_bounded_memory(target: Server) -> None:
    broken = failing_late(64)
    before = peak(target)
    for recordings in (broken[:32], broken[32:]):
        refused(infer(target, audio(*recordings)), 415)
    assert peak(target) - before < 150 * MIB


def test_expensive_resampling_rates_take_seconds_not_minutes(target: Server) -> None:
    sounds = [clip(0.1, rate) for rate in (383987, 191999, 95989, 44101)]
    start = cpu_seconds(target)
    assert infer(target, audio(*sounds)).status_code == 200
    assert cpu_seconds(target) - start < 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_numbers_are_400_as_raw_bytes_and_by_grpc(target: Server, value: float) -> None:
    values = np.full(16, value, dtype="<f4")
    parameters = {"binary_data_size": values.nbytes}
    item = {"name": "text_embedding", "datatype": "FP32", "shape": [1, 16], "parameters": parameters}
    head = json.dumps({"inputs": [item], "parameters": DIGEST}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    refused(httpx.post(f"{target.url}{INFER}", content=head + values.tobytes(), headers=headers), 400, "NaN")
    request = pb.ModelInferRequest(model_name="mistere")
    request.parameters["encoder_digest"].string_param = DIGEST["encoder_digest"]
    request.inputs.add(name="text_embedding", datatype="FP32", shape=[1, 16]).contents.fp32_contents.extend(values)
    assert call(target, request).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.long
def test_numbers_too_large_for_a_model_without_standardisation_are_400(tmp_path: Path) -> None:
    unscaled = make_bundle(tmp_path / "made", standardise=False)
    server = launch(["-m", "mistere.predictor"], unscaled, tmp_path / "server.log")
    try:
        server.client.wait_ready(300)
        refused(httpx.post(f"{server.url}{INFER}", json=embedding([[3e38] * 16], [1, 16])), 400)
    finally:
        assert server.terminate() == 0


def test_standardisation_clips_large_numbers(target: Server) -> None:
    response = httpx.post(f"{target.url}{INFER}", json=embedding([[3e38] * 16], [1, 16]))
    assert response.status_code == 200
    (probabilities,) = [each["data"] for each in response.json()["outputs"] if each["name"] == "probabilities"]
    assert np.isfinite(probabilities).all() and sum(probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [[10**9, 16], [2**62, 4], [0, 16], [-1, -16], [16, 1], [1, 16, 1], [2**64, 16], []])
def test_a_wrong_shape_of_raw_bytes_is_rejected(target: Server, shape: list[int]) -> None:
    values = np.zeros(16, dtype="<f4").tobytes()
    item = {"name": "text_embedding", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": 64}}
    head = json.dumps({"inputs": [item], "parameters": DIGEST}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    refused(httpx.post(f"{target.url}{INFER}", content=head + values, headers=headers), 400)
    if all(abs(size) < 2**63 for size in shape):
        request = pb.ModelInferRequest(model_name="mistere", raw_input_contents=[values])
        request.parameters["encoder_digest"].string_param = DIGEST["encoder_digest"]
        request.inputs.add(name="text_embedding", datatype="FP32", shape=shape)
        assert call(target, request).code() is grpc.StatusCode.INVALID_ARGUMENT


def embedding(data: Any, shape: list[int]) -> dict[str, Any]:
    return {"inputs": [tensor("text_embedding", data, shape, "FP32")], "parameters": DIGEST}


GREEDY: dict[str, Callable[[], bytes]] = {
    "a long string beside many short ones": lambda: json.dumps(
        embedding([["x" * (2 * MIB), *[""] * 15]] + [[""] * 16] * 60000, [60001, 16])
    ).encode(),
    "a number beside a long string": lambda: json.dumps(embedding([0] * 500000 + ["x" * MIB], [31250, 16])).encode(),
    "a million empty lists": lambda: json.dumps(embedding([[]] * 1000000, [1000000, 0])).encode(),
    "two million numbers": lambda: json.dumps(embedding([0] * 2000000, [125000, 16])).encode(),
    "lists in lists": lambda: (
        b'{"inputs": [{"name": "text_embedding", "datatype": "FP32", "shape": [1, 16], "data": '
        + b"[" * 900
        + b"]" * 900
        + b"}]}"
    ),
    "a hundred thousand tensors": lambda: (
        b'{"inputs": [' + b",".join([b'{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}'] * 100000) + b"]}"
    ),
    "a million outputs": lambda: b'{"inputs": [], "outputs": [' + b",".join([b"{}"] * 1000000) + b"]}",
    "half a million parameters": lambda: json.dumps(
        {"inputs": [HI], "parameters": {str(number): 0 for number in range(500000)}}
    ).encode(),
    "two million elements": lambda: json.dumps({"inputs": [tensor("text", [""] * 1500000)]}).encode(),
    "a million instances": lambda: b'{"instances": [' + b",".join([b"{}"] * 1000000) + b"]}",
    "a hundred thousand brackets in a tensor": lambda: b'{"inputs": [{"data": ' + b"[" * 100000,
    "a hundred thousand objects": lambda: b'{"a":' * 100000 + b"1" + b"}" * 100000,
    "a number of a million digits": lambda: b'{"inputs": ' + b"9" * 1000000 + b"}",
}


OVER_A_LIMIT = {"two million elements", "two million numbers", "a million empty lists"}


@pytest.mark.parametrize("name", GREEDY)
def test_a_decompression_bomb_is_rejected(target: Server, name: str) -> None:
    before, start = peak(target), cpu_seconds(target)
    path = "/v1/models/mistere:predict" if "instances" in name else INFER
    response = httpx.post(f"{target.url}{path}", content=GREEDY[name](), timeout=120)
    refused(response, 413 if name in OVER_A_LIMIT else 400)
    assert cpu_seconds(target) - start < 20
    assert peak(target) - before < 600 * MIB


def test_messages_with_very_many_parts_are_rejected(target: Server) -> None:
    before, start = peak(target), cpu_seconds(target)
    tensors = b"\x2a\x00" * 1000000
    assert by_grpc(target, b"\x0a\x07mistere" + tensors) == "INVALID_ARGUMENT"
    outputs = b"\x32\x00" * 1000000
    assert by_grpc(target, b"\x0a\x07mistere" + outputs) == "INVALID_ARGUMENT"
    many = message([b"x"])
    for number in range(1000):
        many.inputs[0].parameters[str(number)].int64_param = number
    assert by_grpc(target, many) == "INVALID_ARGUMENT"
    assert cpu_seconds(target) - start < 10
    assert peak(target) - before < 600 * MIB


TEXTS = {
    "letters": "a" * (7 * MIB),
    "spaces and a word": " " * (7 * MIB) + "a",
    "words": "ab " * (7 * MIB // 3),
    "accents": "a" + "\u0301" * (7 * MIB // 2),
    "emoji": "\U0001f468\u200d" * MIB,
    "zero": "\x00" * MIB + "a",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_huge_text_is_rejected_and_the_largest_one_answered_within_seconds(target: Server, name: str) -> None:
    start = cpu_seconds(target)
    largest = TEXTS[name].encode()[-4 * Limits().request_tokens :].decode(errors="ignore")
    for text, status, code in ((TEXTS[name], "RESOURCE_EXHAUSTED", 413), (largest, "OK", 200)):
        assert by_grpc(target, message([text.encode()])) == status
        body = {"instances": [{"utterances": [{"text": text}]}]}
        sent = json.dumps(body, ensure_ascii=False).encode()
        response = httpx.post(f"{target.url}/v1/models/mistere:predict", content=sent, timeout=120)
        assert response.status_code == code, response.text
    assert cpu_seconds(target) - start < 10


def test_huge_texts_in_every_utterance_are_rejected_or_answered_within_seconds(target: Server) -> None:
    start = cpu_seconds(target)
    refused(infer(target, tensor("text", [f"{turn} " + "a-b?c " * 9000 for turn in range(128)])), 413, "tokens")
    assert infer(target, tensor("text", ["a-b?c " * 9000] * 128)).status_code == 200  # one text, which is encoded once
    assert infer(target, tensor("text", [f"{turn} " + "a-b?c " * 160 for turn in range(128)])).status_code == 200
    assert cpu_seconds(target) - start < 20


@pytest.mark.parametrize(
    "encoded", ["====", "A", "QQ==QQ==", "QQ\t==", "QUJD-_==", "\u00e9\u00e9\u00e9\u00e9", "QQ= ="]
)
def test_wrong_base64_is_400_in_every_field(target: Server, encoded: str) -> None:
    refused(infer(target, tensor("audio", [encoded], content_type="base64")), 400, "base64")
    refused(infer(target, tensor("text", [encoded], content_type="base64")), 400, "base64")
    v1 = {"instances": [{"utterances": [{"audio": encoded}]}]}
    refused(httpx.post(f"{target.url}/v1/models/mistere:predict", json=v1), 400, "base64")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80hi"])
def test_invalid_utf8_is_400_in_every_field(target: Server, text: bytes) -> None:
    encoded = base64.b64encode(text).decode()
    refused(infer(target, tensor("text", [encoded], content_type="base64")), 400, "UTF-8")
    refused(httpx.post(f"{target.url}{INFER}", content=b'{"inputs": [{"name": "' + text + b'"}]}'), 400)
    assert by_grpc(target, message([text])) == "INVALID_ARGUMENT"
    name = b"\x2a" + bytes([len(text) + 2]) + b"\x0a" + bytes([len(text)]) + text
    assert by_grpc(target, b"\x0a\x07mistere" + name) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://other/in/a.wav",
        "s3://calls/out/a.wav",
        "s3://calls/in/../out/a.wav",
        "s3://calls/in/./a.wav",
        "s3://calls/in//a.wav",
        "s3://calls@169.254.169.254/in/a.wav",
        "S3://calls/in/a.wav",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "https://calls.s3.amazonaws.com/in/a.wav",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://calls/in/a.wav",
        "s3://calls/in/a\x00.wav",
        "s3://calls/in/a\r\nHost: x",
        "s3://calls/in/\u202ea.wav",
        " s3://calls/in/a.wav",
    ],
)
def test_locations_outside_the_allowed_ones_are_never_requested(
    target: Server, s3_calls: tuple[str, list[str]], uri: str
) -> None:
    before = len(s3_calls[1])
    refused(infer(target, tensor("audio_uri", [uri])), 400, "utterance 0")
    refused(infer(target, tensor("audio_uri", ["s3://calls/in/a.wav", uri])), 400, "utterance 1")
    assert by_grpc(target, message([uri.encode()], name="audio_uri")) == "INVALID_ARGUMENT"
    assert len(s3_calls[1]) == before


def test_an_allowed_location_is_requested_unchanged(target: Server, s3_calls: tuple[str, list[str]]) -> None:
    for key in ("a.wav", "%2e%2e/a.wav", "a?versionId=1", "a#b", "x" * 2000):
        refused(infer(target, tensor("audio_uri", [f"s3://calls/in/{key}"])), 400, "could not be read")
    assert s3_calls[1]
    assert all(path.startswith("/calls/in/") and "?" not in path for path in s3_calls[1]), s3_calls[1]


PATHS = [
    b"../../etc/passwd",
    b"..%2f..%2fetc%2fpasswd",
    b"%2e%2e",
    b"%2e%2e%2fmistere",
    b"mistere%00",
    b"%00",
    b"mistere%20",
    b"mistere%0d%0aX-Header:%20x",
    b"%ff%fe",
    b"%zz",
    b"%",
    b"mistere;x=1",
    b"MISTERE",
    b"x" * 30000,
    b"x" * 300000,
    b"%c0%ae%c0%ae",
    b"__class__",
]


@pytest.mark.parametrize("name", PATHS, ids=lambda name: name[:24].decode())
def test_hostile_model_names_are_unknown(target: Server, name: bytes) -> None:
    for line in (
        b"GET /v2/models/%s",
        b"GET /v1/models/%s",
        b"POST /v2/models/%s/infer",
        b"POST /v1/models/%s:predict",
    ):
        sent = line % name + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        answer = raw(target, sent)
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.1 414", b"HTTP/1.1 431")) or not answer
        assert b"root:" not in answer
        assert b"\r\nX-Header" not in answer
    model = name.decode(errors="replace")
    assert by_grpc(target, message([b"x"], model=model)) == "NOT_FOUND"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v2/models/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nInference-Header-Content-Length: \xb2\r\n\r\n{}",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20000 + b"\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nX-A: " + b"b" * 1000000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n" * 2000,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " + b"application/openmetrics-text;" * 1000 + b"\r\n\r\n",
    ],
    ids=lambda sent: str(sent[:40]),
)
def test_the_server_survives_malformed_http(target: Server, sent: bytes) -> None:
    answer = raw(target, sent)
    assert b"HTTP/1.1 5" not in answer, answer[:200]
    assert not any(word.encode() in answer for word in FORBIDDEN), answer[:500]
    raw(target, sent, port=target.grpc_port)
    assert httpx.get(f"{target.url}/v2/health/ready").status_code == 200


UNFINISHED = b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@contextmanager
def slow_clients(server: Server) -> Iterator[list[socket.socket]]:
    """Connections of 40 clients: half of them stopped within a request's line, the others within its body."""
    with ExitStack() as stack:
        address = ("127.0.0.1", server.http_port)
        connections = [stack.enter_context(socket.create_connection(address)) for _ in range(40)]
        for number, connection in enumerate(connections):
            connection.sendall(UNFINISHED[:20] if number % 2 else UNFINISHED + b"{")
        yield connections


def test_slow_clients_do_not_delay_others(server: Server) -> None:
    """Other requests are answered while the server still waits for slow clients (30 s by default)."""
    with slow_clients(server) as slow:
        for _ in range(5):
            for connection in slow[::2]:
                connection.sendall(b" ")
            assert infer(server, HI).status_code == 200
        answered, _, _ = select.select(slow, [], [], 0)
        assert not answered


def test_slow_clients_and_half_closed_connections_do_not_block_others(target: Server) -> None:
    with slow_clients(target) as slow:
        assert infer(target, HI).status_code == 200
        slow[0].settimeout(120)
        assert b"408" in slow[0].recv(65536).split(b"\r\n")[0]
        for connection in slow[2:]:
            with suppress(OSError):  # the server has already closed it
                connection.shutdown(socket.SHUT_WR)
        assert infer(target, HI).status_code == 200
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: raw(target, UNFINISHED + b"{", half_close=True), range(16)))
    assert infer(target, HI).status_code == 200


def test_the_server_survives_clients_that_disconnect_early(target: Server) -> None:
    body = json.dumps({"inputs": [audio(clip(3.0))]}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for number in range(30):
        with socket.create_connection(("127.0.0.1", target.http_port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", number % 2, 0))
            connection.sendall(head + body)
    deadline = time.monotonic() + 120
    while infer(target, HI).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("method", ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"])
def test_garbage_is_a_client_error_in_every_method(target: Server, method: str) -> None:
    assert by_grpc(target, b"\xff\xff\xff", method) == "INVALID_ARGUMENT"
    assert by_grpc(target, b"\x0a\x02\xff\xfe", method) in ("OK", "INVALID_ARGUMENT")
    assert by_grpc(target, b"", method) == ("NOT_FOUND" if method.startswith("Model") else "OK")
    assert by_grpc(target, b"", "RepositoryModelLoad") == "UNIMPLEMENTED"


def test_huge_metadata_is_rejected(target: Server) -> None:
    huge = [(f"x-{number}", "v" * 1000) for number in range(200)]
    assert by_grpc(target, message([b"x"]), metadata=huge) in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
    assert by_grpc(target, message([b"x"]), metadata=[("x-id-bin", bytes(range(256)))]) == "OK"


def test_calls_without_a_message_end_and_free_their_slot(target: Server) -> None:
    release = threading.Event()

    def silent() -> Iterator[bytes]:
        release.wait(120)
        yield from ()

    with grpc.insecure_channel(target.grpc_target) as channel:
        calls = [channel.stream_unary(SERVICE + "ModelInfer").future(silent(), timeout=120) for _ in range(100)]
        start = time.monotonic()
        codes = {failed.exception().code() for failed in calls}
        assert time.monotonic() - start < 60
        release.set()
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert by_grpc(target, message([b"x"])) == "OK"
    with grpc.insecure_channel(target.grpc_target) as channel:
        nothing = channel.stream_unary(SERVICE + "ModelInfer").future(iter(()), timeout=120)
        assert nothing.exception().code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.long
def test_bodies_in_flight_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "_BODIES", 2)
    bodies = rest.Bodies(Limits(request_bytes=10, body_seconds=0.2))

    def request(size: int, ends: bool = True, content: bytes = b"", *headers: tuple[bytes, bytes]) -> Request:
        messages = [{"type": "http.request", "body": content or b"x" * size, "more_body": not ends}]

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        return Request({"type": "http", "method": "POST", "headers": list(headers)}, receive)

    def compressed() -> Request:
        raw_deflate = b"\x4b\x4c\x4c\x4c\x04\x00"  # 6 bytes that decompress to 4 times "a"
        return request(0, True, raw_deflate, (b"content-encoding", b"deflate"))

    async def refusal(size: int, ends: bool = True) -> int:
        try:
            async with bodies.read(request(size, ends)):
                return 200
        except RequestError as error:
            return error.code

    async def scenario() -> None:
        async with bodies.read(request(10)) as first, bodies.read(request(8)) as second:
            assert (first, second) == (b"x" * 10, b"x" * 8)
            assert await refusal(3) == 429
            assert await refusal(2) == 200
            assert await refusal(2, ends=False) == 408
        assert await refusal(11) == 413
        async with bodies.read(request(5)):
            with pytest.raises(
                RequestError
            ) as overloaded:  # until it is decompressed, it counts as the largest body too
                async with bodies.read(compressed()):
                    pass
            assert overloaded.value.code == 429
        async with bodies.read(request(4)), bodies.read(compressed()) as body:
            assert body == b"aaaa"
            assert await refusal(10) == 200
        assert await asyncio.gather(*[refusal(10, ends=False) for _ in range(3)]) == [408, 408, 429]
        async with bodies.read(request(10)), bodies.read(request(10)):
            pass
        with pytest.raises(TimeoutError):
            async with bodies.read(request(1)):
                raise TimeoutError

    asyncio.run(scenario())
