"""A face and a vector beside speech and text, sent to a real server: V1, V2 in JSON and in binary, and gRPC."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

import mistere
from mistere.data.kinds.frames import encode_frame
from mistere.serving.other_tensors import json_fields, json_tensor, other_columns
from tests.serving.conftest import Server, launch
from tests.serving.test_other_modalities import DIALOGUE, WIDTH, Turn, image
from tests.unit.data.test_kinds import claims

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server(bundle_of_four: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = launch(["-m", "mistere.predictor"], bundle_of_four, tmp_path_factory.mktemp("log") / "server.log")
    try:
        started.client.wait_ready(300)
        yield started
    finally:
        assert started.terminate() == 0


def raw_tensor(name: str, rows: np.ndarray) -> tuple[dict[str, Any], bytes]:
    """A tensor of the binary extension, and its bytes."""
    if rows.dtype == object:
        raw = b"".join(struct.pack("<I", len(part)) + part for part in rows.ravel())
        datatype = "BYTES"
    else:
        raw, datatype = rows.astype("<f4").tobytes(), "FP32"
    shape = list(rows.shape)
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}, raw


def columns_of(turns: Sequence[Turn]) -> dict[str, np.ndarray]:
    texts = np.array([(turn.text or "").encode() for turn in turns], dtype=object)
    clips = np.array([turn.audio or b"" for turn in turns], dtype=object)
    return {"text": texts, "audio": clips, **other_columns(turns)}


def by_binary(server: Server, turns: Sequence[Turn]) -> httpx.Response:
    tensors = [raw_tensor(name, rows) for name, rows in columns_of(turns).items()]
    head = json.dumps({"inputs": [one for one, _ in tensors], "parameters": {"binary_data_output": True}}).encode()
    return httpx.post(
        f"{server.url}/v2/models/mistere/infer",
        content=head + b"".join(raw for _, raw in tensors),
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
        timeout=60,
    )


def test_every_protocol_gives_the_same_probabilities(server: Server, bundle_of_four: str) -> None:
    offline = mistere.load(bundle_of_four).predict(DIALOGUE)
    assert offline.modalities == ["speech+text+face+acoustic", "text+face", "acoustic", "none"]
    client = server.client
    for answer in (client.predict_rest(DIALOGUE), client.predict_v1(DIALOGUE), client.predict_grpc(DIALOGUE)):
        np.testing.assert_allclose(answer.probabilities, offline.probabilities, atol=1e-5)
        np.testing.assert_allclose(answer.expert_weights, offline.expert_weights, atol=1e-5)
        assert answer.modalities == offline.modalities and answer.experts == offline.experts
        assert answer.text_sources == []
    response = by_binary(server, DIALOGUE)
    assert response.status_code == 200, response.text
    binary = InferResponse.from_bytes(response.content, int(response.headers["Inference-Header-Content-Length"]))
    outputs = {output.name: output.as_numpy() for output in binary.outputs}
    np.testing.assert_allclose(outputs["probabilities"], offline.probabilities, atol=1e-5)
    assert outputs["modalities_used"].tolist() == offline.modalities


def v1(server: Server, turns: Sequence[Turn]) -> tuple[Any, str]:
    body = {"instances": [{"utterances": [{"text": turn.text, **json_fields(turn)} for turn in turns]}]}
    response = httpx.post(f"{server.url}/v1/models/mistere:predict", json=body, timeout=60)
    return response.status_code, response.json().get("error", "")


def v2_json(server: Server, turns: Sequence[Turn]) -> tuple[Any, str]:
    inputs = [json_tensor(name, rows) for name, rows in columns_of(turns).items()]
    response = httpx.post(f"{server.url}/v2/models/mistere/infer", json={"inputs": inputs}, timeout=60)
    return response.status_code, response.json().get("error", "")


def v2_binary(server: Server, turns: Sequence[Turn]) -> tuple[Any, str]:
    response = by_binary(server, turns)
    return response.status_code, json.loads(response.text).get("error", "")


def by_grpc(server: Server, turns: Sequence[Turn]) -> tuple[Any, str]:
    request = pb.ModelInferRequest(model_name="mistere")
    for name, rows in columns_of(turns).items():
        tensor, raw = raw_tensor(name, rows)
        request.inputs.add(name=name, datatype=tensor["datatype"], shape=tensor["shape"])
        request.raw_input_contents.append(raw)
    with grpc.insecure_channel(server.grpc_target) as channel, pytest.raises(grpc.RpcError) as caught:
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return 400, caught.value.details()


NOISE = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"face": (b"GIF89a",)}, "The face of utterance 1 cannot be read: frame 0 is no JPEG or PNG image"),
    "bomb": (
        {"face": (image(1), claims(60000, 60000))},
        "utterance 1 cannot be read: frame 1 has more than 8294400 pixels",
    ),
    "cut off": (
        {"face": (encode_frame(NOISE)[:-3000],)},
        "The face of utterance 1 cannot be read: frame 0 does not decode",
    ),
    "too many": ({"face": (image(1),) * 65}, "The face of utterance 1 cannot be read: there are 65 frames; at most 64"),
    "width": ({"acoustic": np.ones(WIDTH + 1, np.float32)}, f"must have {WIDTH} "),
    "infinity": ({"acoustic": np.full(WIDTH, np.inf, np.float32)}, "holds NaN or infinity"),
    "unknown": ({"pose": np.ones(3, np.float32)}, "'pose'; known: "),
}


@pytest.mark.parametrize("ask", [v1, v2_json, v2_binary, by_grpc])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_value_is_one_sentence(
    server: Server, ask: Callable[[Server, Sequence[Turn]], tuple[Any, str]], case: str
) -> None:
    others, message = BAD[case]
    if case == "infinity" and ask in (v1, v2_json):
        pytest.skip("JSON has no infinity")
    code, error = ask(server, [Turn("Well."), Turn("Well?", None, others)])
    assert code == 400 and message in error, error
    assert error.endswith(".") and error.count(". ") == 0 and "Error" not in error and "\n" not in error


def test_the_server_still_answers(server: Server) -> None:
    assert server.client.predict_rest([Turn("Well.", None, {"face": (image(7),)})]).modalities == ["text+face"]
    assert "Traceback" not in server.log.read_text()
