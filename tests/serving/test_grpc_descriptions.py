"""gRPC from its published descriptions alone, as grpcurl calls it: no generated module of a client, JSON in and JSON out."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc
from kserve.protocol.grpc.grpc_predict_v2_pb2 import DESCRIPTOR as PUBLISHED_BY_KSERVE

from mistere.data.kinds.audio import encoded
from tests.serving.conftest import LABELS, ROOT, Server
from tests.serving.test_stream import RATE, call

GUIDES = ROOT / "docs" / "guides"


@pytest.fixture
def pool(tmp_path: Path) -> DescriptorPool:
    """The descriptions: KServe's of the Open Inference Protocol, and ``live_audio.proto``."""
    described = tmp_path / "described"
    assert protoc.main(["", f"-I{ROOT / 'docs' / 'examples'}", f"-o{described}", "live_audio.proto"]) == 0
    pool = DescriptorPool()
    pool.AddSerializedFile(PUBLISHED_BY_KSERVE.serialized_pb)
    for file in descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes()).file:
        pool.Add(file)
    return pool


def ask(pool: DescriptorPool, server: Server, method: str, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Call a method with messages in JSON, as ``grpcurl -proto``; returns the answers in JSON."""
    service, _, name = method.partition("/")
    described = pool.FindServiceByName(service).methods_by_name[name]
    request = message_factory.GetMessageClass(described.input_type)
    response = message_factory.GetMessageClass(described.output_type)
    messages = [json_format.ParseDict(one, request(), descriptor_pool=pool) for one in requests]
    with grpc.insecure_channel(server.grpc_target) as channel:
        coders = {"request_serializer": request.SerializeToString, "response_deserializer": response.FromString}
        if described.client_streaming and described.server_streaming:
            answers = list(channel.stream_stream(f"/{method}", **coders)(iter(messages), timeout=60))
        else:
            answers = [channel.unary_unary(f"/{method}", **coders)(messages[0], timeout=60)]
    return [json_format.MessageToDict(answer, preserving_proto_field_name=True) for answer in answers]


def command(guide: str, method: str) -> str:
    """The command of a guide that calls a method with grpcurl."""
    blocks = re.findall(r"```bash\n(.*?)```", (GUIDES / guide).read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "grpcurl" in block and block.strip().endswith(method)]
    return found


def test_the_open_inference_protocol_is_answered(server: Server, pool: DescriptorPool) -> None:
    method = "inference.GRPCInferenceService/ModelInfer"
    data = re.search(r"-d '(.*?)'", command("serving.md", method), re.DOTALL)
    assert data is not None
    (answer,) = ask(pool, server, method, [json.loads(data[1])])
    columns = {output["name"]: output for output in answer["outputs"]}
    labels = [base64.b64decode(value).decode() for value in columns["label"]["contents"]["bytes_contents"]]
    assert len(labels) == 2 and set(labels) <= set(LABELS)
    assert columns["probabilities"]["shape"] == ["2", str(len(LABELS))]
    (ready,) = ask(pool, server, "inference.GRPCInferenceService/ModelReady", [{"name": "mistere"}])
    (metadata,) = ask(pool, server, "inference.GRPCInferenceService/ModelMetadata", [{"name": "mistere"}])
    assert ready == {"ready": True} and {"text", "audio"} <= {tensor["name"] for tensor in metadata["inputs"]}


def test_a_stream_is_answered(server: Server, pool: DescriptorPool, tmp_path: Path) -> None:
    """The messages are those that the guide's shell command makes of a recording."""
    method = "live_audio.v1.LiveAudio/Stream"
    (tmp_path / "call.wav").write_bytes(encoded(call(), RATE, "PCM_16"))
    sender, separator, _ = command("streaming.md", method).partition(" | grpcurl")
    assert separator
    made = subprocess.run(["bash", "-c", sender], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    answers = ask(pool, server, method, [json.loads(line) for line in made.stdout.splitlines()])
    ready, *turns = [json.loads(answer["json"]) for answer in answers]
    assert ready["type"] == "ready" and [turn["channel"] for turn in turns] == [0, 1, 0]
    assert all(turn["label"] in LABELS for turn in turns)
