"""The endpoint's answers by REST, gRPC and V1 equal the model's offline predictions."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.serving.conftest import LABELS, Server, Utterance, clip

INFER = "/v2/models/mistere/infer"


@pytest.fixture(scope="session")
def offline(bundle: str, dialogue: list[Utterance]) -> Any:
    from mistere.model.inference import load_bundle

    return load_bundle(bundle).predict([dialogue])[0]


@pytest.mark.parametrize("method", ["predict_rest", "predict_grpc", "predict_v1"])
def test_every_protocol_returns_the_offline_predictions(
    server: Server, dialogue: list[Utterance], offline: Any, method: str
) -> None:
    prediction = getattr(server.client, method)(dialogue, detail=True)
    np.testing.assert_allclose(prediction.probabilities, offline.probabilities, atol=1e-5)
    np.testing.assert_allclose(prediction.expert_weights, offline.expert_weights, atol=1e-5)
    np.testing.assert_allclose(prediction.expert_probabilities, offline.expert_probabilities, atol=1e-5)
    np.testing.assert_allclose(prediction.probabilities.sum(1), 1, atol=1e-5)
    assert prediction.predicted == [LABELS[index] for index in offline.probabilities.argmax(1)]
    assert prediction.modalities == ["speech+text", "text", "speech", "none"]
    assert prediction.labels == LABELS
    assert prediction.experts == ["speech", "text", "cross_modal"]
    assert prediction.expert_weights[1, 0] == 0.0
    assert prediction.expert_weights[3].tolist() == [0.0, 0.0, 1.0]
    assert set(prediction.parameters) == {"model_version", "bundle_digest", "labels", "experts"}
    assert prediction.request_id
    assert getattr(server.client, method)(dialogue).expert_probabilities is None


def text_request(texts: list[str], **extra: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}], **extra}


def test_the_id_is_echoed_or_generated(server: Server) -> None:
    echoed = httpx.post(server.url + INFER, json=text_request(["hi"], id="turn-7")).json()
    assert echoed["id"] == "turn-7"
    assert echoed["model_version"] == echoed["parameters"]["model_version"]
    generated = httpx.post(server.url + INFER, json=text_request(["hi"])).json()["id"]
    assert isinstance(generated, str)
    assert len(generated) > 8
    header = httpx.post(server.url + INFER, json=text_request(["hi"]), headers={"X-Request-Id": "from-gateway"})
    assert header.json()["id"] == "from-gateway"


def test_only_requested_outputs_are_returned(server: Server) -> None:
    body = text_request(["hi"], outputs=[{"name": "expert_probabilities"}, {"name": "label"}])
    outputs = httpx.post(server.url + INFER, json=body).json()["outputs"]
    assert {output["name"] for output in outputs} == {"expert_probabilities", "label"}


def raw_bytes(values: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def test_the_binary_extension_works_for_requests_and_responses(
    server: Server, dialogue: list[Utterance], offline: Any
) -> None:
    tensors = {
        "text": raw_bytes([(utterance.text or "").encode() for utterance in dialogue]),
        "audio": raw_bytes([utterance.audio or b"" for utterance in dialogue]),
    }
    inputs = [
        {"name": name, "datatype": "BYTES", "shape": [4], "parameters": {"binary_data_size": len(raw)}}
        for name, raw in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    response = httpx.post(
        server.url + INFER,
        content=head + b"".join(tensors.values()),
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"},
    )
    assert response.status_code == 200, response.text
    answer = InferResponse.from_bytes(response.content, int(response.headers["Inference-Header-Content-Length"]))
    probabilities = answer.get_output_by_name("probabilities").as_numpy()
    np.testing.assert_allclose(probabilities, offline.probabilities, atol=1e-5)
    assert answer.get_output_by_name("modalities_used").as_numpy().tolist()[0] == "speech+text"


def test_grpc_typed_contents(server: Server) -> None:
    message = pb.ModelInferRequest(model_name="mistere", id="typed")
    tensor = message.inputs.add(name="text", datatype="BYTES", shape=[2])
    tensor.contents.bytes_contents.extend([b"hello", b"there"])
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=20)
    assert answer.id == "typed"
    assert not answer.raw_output_contents
    named = {output.name: output for output in answer.outputs}
    assert len(named["probabilities"].contents.fp32_contents) == 2 * len(LABELS)
    assert list(named["modalities_used"].contents.bytes_contents) == [b"text", b"text"]
    assert answer.parameters["labels"].string_param == ",".join(LABELS)


def test_embeddings_by_grpc_and_rest(server: Server, bundle: str) -> None:
    from mistere.model.inference import load_bundle

    generator = np.random.default_rng(1)
    embeddings = {name: generator.normal(size=(3, 16)).astype(np.float32) for name in ("speech", "text")}
    expected = load_bundle(bundle).predict_embeddings([embeddings])[0]
    digests = "s" * 64 + "," + "t" * 64
    inputs = []
    for name, values in embeddings.items():
        tensor = InferInput(f"{name}_embedding", [3, 16], "FP32")
        tensor.set_data_from_numpy(values)
        tensor.parameters = None
        inputs.append(tensor)
    request = InferRequest("mistere", inputs, parameters={"encoder_digest": digests}).to_grpc()
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = InferResponse.from_grpc(GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20))
    by_grpc = answer.get_output_by_name("probabilities").as_numpy()
    np.testing.assert_allclose(by_grpc, expected.probabilities, atol=1e-5)
    body = {
        "inputs": [
            {"name": f"{name}_embedding", "datatype": "FP32", "shape": [3, 16], "data": values.tolist()}
            for name, values in embeddings.items()
        ],
        "parameters": {"encoder_digest": digests},
    }
    outputs = {output["name"]: output["data"] for output in httpx.post(server.url + INFER, json=body).json()["outputs"]}
    np.testing.assert_allclose(np.reshape(outputs["probabilities"], (3, -1)), expected.probabilities, atol=1e-5)


def test_uploaded_audio_is_usable_by_digest(server: Server) -> None:
    sound = clip(0.8, pitch=440)
    server.client.predict_rest([Utterance("Hi", sound)])
    digest = hashlib.sha256(sound).hexdigest()
    body = {
        "inputs": [
            {
                "name": "audio",
                "datatype": "BYTES",
                "shape": [2],
                "data": ["", base64.b64encode(clip(0.6)).decode()],
                "parameters": {"content_type": "base64"},
            },
            {"name": "audio_digest", "datatype": "BYTES", "shape": [2], "data": [digest, ""]},
        ]
    }
    response = httpx.post(server.url + INFER, json=body)
    assert response.status_code == 200, response.text
    used = next(output for output in response.json()["outputs"] if output["name"] == "modalities_used")
    assert used["data"] == ["speech", "speech"]


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2)])
def test_formats_and_rates(server: Server, file_format: str, rate: int, channels: int) -> None:
    answer = server.client.predict_v1([Utterance(None, clip(0.6, rate, file_format, channels))])
    assert answer.modalities == ["speech"]


def test_metadata_and_health(server: Server) -> None:
    metadata = httpx.get(f"{server.url}/v2/models/mistere").json()
    assert {tensor["name"] for tensor in metadata["inputs"]} >= {"text", "audio", "speech_embedding", "text_embedding"}
    assert metadata["properties"]["encoder_digest.text"] == "t" * 64
    assert httpx.get(f"{server.url}/v2/models").json() == {"models": ["mistere"]}
    assert httpx.get(f"{server.url}/v1/models/mistere").json() == {"name": "mistere", "ready": True}
    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=5).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="mistere"), timeout=5).ready
        described = stub.ModelMetadata(pb.ModelMetadataRequest(name="mistere"), timeout=5)
        assert {output.name for output in described.outputs} >= {"label", "probabilities"}


def test_clients_cannot_unload_models(server: Server) -> None:
    assert httpx.post(f"{server.url}/v2/repository/models/mistere/unload").status_code == 404
    with grpc.insecure_channel(server.grpc_target) as channel, pytest.raises(grpc.RpcError) as refused:
        GRPCInferenceServiceStub(channel).RepositoryModelUnload(
            pb.RepositoryModelUnloadRequest(model_name="mistere"), timeout=5
        )
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_texts_in_an_unknown_script_are_named(server: Server) -> None:
    """The model of these tests has been trained on Latin alone, as its bundle says."""
    counter = "mistere_unknown_script_total"

    def count() -> float:
        (line,) = re.findall(rf"^{counter} (.*)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
        return float(line)

    before = count()
    texts = ["Hello.", "Привет, как дела?", "12 — …", "Ça va?", "Где ты? OK", "元気ですか"]
    answer = server.client.predict_rest([Utterance(text) for text in texts])
    assert answer.parameters["unknown_script"] == "Cyrillic: 1, 4; Kana: 5"
    body = {"instances": [{"utterances": [{"text": texts[0]}]}, {"utterances": [{"text": texts[1]}]}]}
    answer_v1 = httpx.post(f"{server.url}/v1/models/mistere:predict", json=body).json()
    assert answer_v1["parameters"]["unknown_script"] == "Cyrillic: 1"
    assert "unknown_script" not in server.client.predict_rest([Utterance("Hello.")]).parameters
    assert count() == before + 4
    server.client.predict_rest([Utterance(text) for text in (*texts, "Да")])
    assert count() == before + 5, "each turn counts once"


def test_metrics(server: Server) -> None:
    server.client.predict_v1([Utterance("Only text")])
    text = httpx.get(f"{server.url}/metrics").text
    for line in (
        'mistere_requests_total{code="200",protocol="rest_v1"}',
        'mistere_phase_seconds_count{phase="decode"}',
        'mistere_phase_seconds_count{phase="encode"}',
        'mistere_phase_seconds_count{phase="mixture"}',
        'mistere_traffic_modality_total{modality="speech"}',
        'mistere_traffic_expert_weight_sum{expert="cross_modal"}',
        "mistere_batch_dialogues_count",
        "mistere_queue_depth",
    ):
        assert line in text, line
