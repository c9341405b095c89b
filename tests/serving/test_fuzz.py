"""Thousands of almost valid requests: no 5xx, no restart, and no memory leak."""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests.serving.conftest import Server, Utterance, clip, launch
from tests.serving.test_errors import DIGEST, FORBIDDEN

SEED = 20240229
INFER, PREDICT = "/v2/models/mistere/infer", "/v1/models/mistere:predict"
CALL = "/inference.GRPCInferenceService/ModelInfer"
CLIPS = [clip(0.6, 8000, file_format) for file_format in ("WAV", "FLAC", "OGG")]
TEXTS = ["Where have you been?", "", "  ", "na\u00efve \U0001f600", "x" * 500, "\u202e\u0000"]
SCALARS = [None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 - 1, 10**40, 0.5, -0.0, 1e308, float("nan"), float("inf")]
WORDS = [
    "",
    "text",
    "audio",
    "audio_digest",
    "audio_uri",
    "FP32",
    "BYTES",
    "base64",
    "label",
    "\u0000",
    "a" * 300,
    "../",
]
STATUSES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}


@dataclass(frozen=True)
class FuzzRequest:
    """A request by REST, or by gRPC if it has no path."""

    body: bytes
    path: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


class Fuzzer:
    """Generates valid requests of every kind and mutates them."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def requests(self, count: int) -> Iterator[FuzzRequest]:
        kinds = (self._json, self._sound, self._binary, self._grpc_fields, self._grpc_bytes, self._noise)
        for _ in range(count):
            yield self._random.choices(kinds, (8, 5, 4, 4, 4, 2))[0]()

    def _sometimes(self, share: float) -> bool:
        return self._random.random() < share

    def _value(self, depth: int = 0) -> Any:
        kind = self._random.randrange(5 if depth < 3 else 3)
        if kind == 0:
            return self._random.choice(SCALARS)
        if kind < 3:
            return self._random.choice(WORDS + TEXTS)
        if kind == 3:
            return [self._value(depth + 1) for _ in range(self._random.randrange(4))]
        return {self._random.choice(WORDS): self._value(depth + 1) for _ in range(self._random.randrange(4))}

    def _locations(self, value: Any) -> Iterator[tuple[Any, Any]]:
        """Every container and key in a JSON value."""
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            if isinstance(value[key], dict | list):
                yield from self._locations(value[key])

    def _mutated(self, valid: Any) -> Any:
        value = deepcopy(valid)
        for _ in range(self._random.randrange(4)):
            locations = list(self._locations(value))
            if not locations:
                break
            holder, key = self._random.choice(locations)
            change = self._random.randrange(7)
            old = holder[key]
            if change < 2:
                holder[key] = self._value()
            elif change == 2:
                del holder[key]
            elif change == 3:
                holder[key] = [old] * self._random.choice((0, 1, 2, 130))
            elif change == 4 and isinstance(old, list) and old:
                old.append(deepcopy(self._random.choice(old)))
            elif change == 4 and isinstance(old, str):
                cut = self._random.randrange(len(old) + 1)
                holder[key] = old[cut:] + self._random.choice(WORDS)
            elif change == 5 and isinstance(holder, dict):
                holder[self._random.choice(WORDS)] = holder.pop(key)
            elif change == 5:
                self._random.shuffle(holder)
            else:
                source, source_key = self._random.choice(locations)
                holder[key] = (
                    deepcopy(source[source_key])
                    if source_key in (source if isinstance(source, dict) else range(len(source)))
                    else old
                )
        return value

    def _flipped(self, content: bytes, most: int = 4) -> bytes:
        """Change, delete, duplicate or insert bytes."""
        changed = bytearray(content)
        for _ in range(self._random.randrange(1, most)):
            at = self._random.randrange(len(changed) + 1)
            change = self._random.randrange(6)
            if change < 2 and at < len(changed):
                changed[at] = self._random.randrange(256)
            elif change == 2 and at < len(changed):
                changed[at] ^= 1 << self._random.randrange(8)
            elif change == 3:
                del changed[at : at + self._random.choice((1, 4, 100, len(changed)))]
            elif change == 4:
                changed[at:at] = self._random.randbytes(self._random.choice((1, 2, 4, 50)))
            else:
                changed[at:at] = changed[at : at + self._random.choice((1, 8, 200))]
        return bytes(changed)

    def _tensor(self, name: str, data: list[Any], **parameters: Any) -> dict[str, Any]:
        return {"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data, "parameters": parameters}

    def _texts(self, count: int) -> list[str]:
        return [self._random.choice(TEXTS) for _ in range(count)]

    def _valid(self) -> tuple[str, Any]:
        count = self._random.choice((1, 2, 3, 8))
        texts = self._texts(count)
        kind = self._random.randrange(6)
        if kind == 0:
            return PREDICT, {"instances": [{"utterances": [{"text": text} for text in texts]}]}
        if kind == 1:
            sound = base64.b64encode(self._random.choice(CLIPS)).decode()
            turns = [{"text": texts[0], "audio": sound}, {"text": None}, {"audio_digest": "a" * 64}]
            return PREDICT, {"id": "x", "instances": [{"utterances": turns[:count]}], "parameters": {"detail": True}}
        if kind == 2:
            rows = [[self._random.choice((0.5, -2, 1e6))] * 16 for _ in range(count)]
            item = {"name": "text_embedding", "datatype": "FP32", "shape": [count, 16], "data": rows}
            return INFER, {"inputs": [item], "parameters": dict(DIGEST)}
        if kind == 3:
            named = self._random.choice(("audio_digest", "audio_uri"))
            values = [self._random.choice(("", "a" * 64, "s3://calls/a.wav")) for _ in range(count)]
            return INFER, {"inputs": [self._tensor("text", texts), self._tensor(named, values)]}
        outputs = [
            {"name": name, "parameters": {"binary_data": self._sometimes(0.5)}} for name in ("label", "probabilities")
        ]
        body = {"id": "x", "inputs": [self._tensor("text", texts)], "parameters": {"detail": self._sometimes(0.5)}}
        return INFER, body | ({"outputs": outputs} if kind == 4 else {})

    def _json(self) -> FuzzRequest:
        path, valid = self._valid()
        sent = json.dumps(self._mutated(valid), ensure_ascii=self._sometimes(0.5)).encode(errors="replace")
        return FuzzRequest(self._flipped(sent) if self._sometimes(0.2) else sent, path)

    def _sound(self) -> FuzzRequest:
        sounds = [self._flipped(self._random.choice(CLIPS)) for _ in range(self._random.randrange(1, 3))]
        if self._sometimes(0.5):
            sounds = [
                sound[: self._random.randrange(200)] + clip[200:] for sound, clip in zip(sounds, CLIPS, strict=False)
            ]
        encoded = [base64.b64encode(sound).decode() for sound in sounds]
        return FuzzRequest(
            json.dumps({"inputs": [self._tensor("audio", encoded, content_type="base64")]}).encode(), INFER
        )

    def _binary(self) -> FuzzRequest:
        texts = [text.encode() for text in self._texts(2)]
        raws = {
            "text": b"".join(struct.pack("<I", len(text)) + text for text in texts),
            "audio": b"".join(struct.pack("<I", len(sound)) + sound for sound in (b"", self._random.choice(CLIPS))),
        }
        items: list[dict[str, Any]] = [
            {"name": name, "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
            for name, raw in raws.items()
        ]
        parameters: dict[str, Any] = {"binary_data_output": self._sometimes(0.5)}
        if self._sometimes(0.3):
            raws = {"text_embedding": struct.pack("<f", 0.5) * 32}
            size = 128 + self._random.choice((0, 0, -1, 1, 4))
            items = [
                {
                    "name": "text_embedding",
                    "datatype": "FP32",
                    "shape": [2, 16],
                    "parameters": {"binary_data_size": size},
                }
            ]
            parameters |= DIGEST
        content = {"inputs": items, "parameters": parameters}
        head = json.dumps(self._mutated(content) if self._sometimes(0.5) else content).encode()
        tail = b"".join(raws.values())
        if "text" in raws and self._sometimes(0.5):
            tail = self._flipped(tail)
        length = str(len(head) + self._random.choice((0, 0, 0, 1, -1, 10**6)))
        if self._sometimes(0.1):
            length = self._random.choice(("", "-1", "0", "1e3", "\u00b2", "+5", "0x10", "9" * 50))
        headers = {"Inference-Header-Content-Length": length, "Content-Type": "application/octet-stream"}
        return FuzzRequest(head + tail, INFER, headers)

    def _message(self) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name="mistere", id="x")
        texts = [text.encode() for text in self._texts(2)]
        text = request.inputs.add(name="text", datatype="BYTES", shape=[2])
        sound = request.inputs.add(name="audio", datatype="BYTES", shape=[2])
        clips = [b"", self._random.choice(CLIPS)]
        if self._sometimes(0.5):
            for values in (texts, clips):
                request.raw_input_contents.append(b"".join(struct.pack("<I", len(value)) + value for value in values))
        else:
            text.contents.bytes_contents.extend(texts)
            sound.contents.bytes_contents.extend(clips)
        request.parameters["detail"].bool_param = True
        return request

    def _grpc_fields(self) -> FuzzRequest:
        request = self._message()
        item = self._random.choice(request.inputs)
        changes: list[Callable[[], Any]] = [
            lambda: item.shape.append(self._random.choice((0, -1, 2**62))),
            lambda: item.shape.__setitem__(0, self._random.choice((0, -1, 3, 2**62))),
            lambda: setattr(item, "datatype", self._random.choice(("FP32", "fp32", "INT8", "FP16", "BOOL", ""))),
            lambda: setattr(item, "name", self._random.choice(WORDS)),
            lambda: setattr(request, "model_name", self._random.choice(WORDS)),
            lambda: item.contents.fp32_contents.extend([0.5] * 32),
            lambda: item.contents.int_contents.extend([1, 2]),
            lambda: request.raw_input_contents.extend([b"\xff\xff\xff\xff"]),
            lambda: request.inputs.add(name=item.name),
            lambda: request.outputs.add(name=self._random.choice(WORDS)),
            lambda: request.parameters["detail"].__class__ and request.parameters["detail"].Clear(),
            lambda: setattr(request.parameters["detail"], "string_param", "yes"),
            lambda: setattr(item.parameters["content_type"], "string_param", self._random.choice(WORDS)),
            lambda: setattr(item.parameters["content_type"], "int64_param", -1),
            lambda: setattr(request, "id", "y" * self._random.choice((0, 300))),
        ]
        for _ in range(self._random.choice((1, 1, 2))):
            self._random.choice(changes)()
        return FuzzRequest(request.SerializeToString())

    def _grpc_bytes(self) -> FuzzRequest:
        return FuzzRequest(self._flipped(self._message().SerializeToString()))

    def _noise(self) -> FuzzRequest:
        path = self._random.choice(
            (INFER, PREDICT, "/v2/models/%00/infer", "/v2", "/metrics", "/openapi.json", "/v1/models/")
        )
        content = self._random.choice(
            (json.dumps(self._value()).encode(), self._random.randbytes(self._random.randrange(300)))
        )
        headers = {
            "Content-Type": self._random.choice(WORDS[1:9]),
            "X-Request-Id": self._random.choice(("", "\u00ff", "x" * 5000)),
        }
        method = self._random.choice(("POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"))
        return FuzzRequest(content, path, headers, method)


def send_all(server: Server, requests: Iterator[FuzzRequest]) -> Counter[str]:
    """Send the requests over one REST and one gRPC connection; return the status codes."""
    codes: Counter[str] = Counter()
    with httpx.Client(base_url=server.url, timeout=120) as rest, grpc.insecure_channel(server.grpc_target) as channel:
        by_grpc = channel.unary_unary(CALL)
        for request in requests:
            message = ""
            if request.path is None:
                code = "OK"
                try:
                    by_grpc(request.body, timeout=120)
                except grpc.RpcError as error:
                    code, message = error.code().name, error.details()
                assert code in STATUSES, (code, message, base64.b64encode(request.body))
            else:
                headers = [
                    (name.encode(), value.encode("latin-1", "replace")) for name, value in request.headers.items()
                ]
                response = rest.request(request.method, request.path, content=request.body, headers=headers)
                code = str(response.status_code)
                message = "" if code == "200" or request.method == "HEAD" else response.text
                assert response.status_code < 500, (code, request, message)
                assert response.status_code < 300 or request.method == "HEAD" or "error" in message, (
                    code,
                    request,
                    message,
                )
            assert not any(word in message for word in FORBIDDEN), (message, request)
            codes[code] += 1
    return codes


def resident(server: Server) -> float:
    """Resident memory of the process, MiB, once it no longer changes."""
    readings: list[int] = []
    while (len(readings) < 100 and len(set(readings[-5:])) != 1) or len(readings) < 5:
        readings.append(int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]))
        time.sleep(0.1)
    return readings[-1] * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@pytest.fixture(scope="module")
def target(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("fuzz") / "server.log"
    started = launch(["-m", "mistere.predictor"], bundle, log, "--max-seconds", "5", "--audio-store-mib", "1")
    started.client.wait_ready(300)
    yield started
    assert started.process.poll() is None
    assert started.client.predict_v1([Utterance("Hi", CLIPS[0])]).modalities == ["speech+text"]
    assert started.terminate() == 0
    assert "Traceback" not in started.log.read_text()


def fuzz(target: Server, warm_up: int, count: int, connections: int) -> None:
    def parallel(number: int, seed: int) -> Counter[str]:
        parts = [Fuzzer(seed + worker).requests(number // connections) for worker in range(connections)]
        with ThreadPoolExecutor(connections) as pool:
            return sum(pool.map(lambda requests: send_all(target, requests), parts), Counter())

    parallel(warm_up, SEED + 1000)
    before, start = resident(target), time.monotonic()
    codes = parallel(count, SEED)
    seconds, after = time.monotonic() - start, resident(target)
    print(
        f"\n{count} requests in {seconds:.0f} s: {dict(codes.most_common())}; {before:.0f} MiB before, {after:.0f} after"
    )
    assert codes.total() == count // connections * connections
    assert codes["200"] > count // 20
    assert codes["OK"] > count // 100
    assert target.process.poll() is None
    assert after < before * 1.05


@pytest.mark.long  # test_openapi.py sends generated requests in the quick tests
def test_hundreds_of_almost_valid_requests(target: Server) -> None:
    fuzz(target, 200, 600, 1)


@pytest.mark.long
def test_ten_thousand_requests_over_several_connections(target: Server) -> None:
    fuzz(target, 3000, 10000, 4)
