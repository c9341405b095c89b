"""The exact fields of a response and their order for a model of speech and text, as clients of the first release know them."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mistere.config.predictor import PredictorConfig
from mistere.config.predictor_options import stated
from mistere.serving.protocol import EXPLANATION_OUTPUTS
from tests.serving.conftest import LABELS, Server

OUTPUTS = ["label", "probabilities", "expert_weights", "modalities_used"]
WITH_DETAIL = [*OUTPUTS[:3], "expert_probabilities", OUTPUTS[3]]
PARAMETERS = ["model_version", "bundle_digest", "labels", "experts"]
SHAPES = {
    "label": [2],
    "probabilities": [2, 4],
    "expert_weights": [2, 3],
    "expert_probabilities": [2, 3, 4],
    "modalities_used": [2],
}
TEXTS = ("label", "modalities_used")


def layout(value: Any) -> Any:
    """The keys of JSON objects in their order, and the form of lists; numbers and texts are left out."""
    if isinstance(value, dict):
        return [(key, layout(content)) for key, content in value.items()]
    if isinstance(value, list):
        return [layout(content) for content in value]
    return type(value).__name__


@pytest.mark.parametrize("detail", [False, True])
def test_v1(server: Server, detail: bool) -> None:
    body = {"instances": [{"utterances": [{"text": "Hello?"}, {"text": "Yes."}]}], "parameters": {"detail": detail}}
    answer = httpx.post(f"{server.url}/v1/models/mistere:predict", json=body, timeout=60)
    rows: dict[str, Any] = {
        "label": ["str"] * 2,
        "probabilities": [["float"] * 4] * 2,
        "expert_weights": [["float"] * 3] * 2,
        "expert_probabilities": [[["float"] * 4] * 3] * 2,
        "modalities_used": ["str"] * 2,
    }
    assert layout(json.loads(answer.content)) == [
        ("id", "str"),
        ("predictions", [[(name, rows[name]) for name in (WITH_DETAIL if detail else OUTPUTS)]]),
        ("parameters", [(name, "str") for name in PARAMETERS]),
    ]


@pytest.mark.parametrize("detail", [False, True])
def test_v2(server: Server, detail: bool) -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["Hello?", "Yes."]}
    body = {"id": "call-7", "inputs": [text], "parameters": {"detail": detail}}
    answer = json.loads(httpx.post(f"{server.url}/v2/models/mistere/infer", json=body, timeout=60).content)
    assert list(answer) == ["id", "model_name", "model_version", "outputs", "parameters"]
    assert answer["id"] == "call-7" and list(answer["parameters"]) == PARAMETERS
    assert answer["parameters"]["labels"] == ",".join(LABELS)
    assert answer["parameters"]["experts"] == "speech,text,cross_modal"
    for output in answer["outputs"]:
        name = output["name"]
        assert list(output) == ["name", "shape", "datatype", "data"] and output["shape"] == SHAPES[name]
        assert output["datatype"] == ("BYTES" if name in TEXTS else "FP32")
        assert {type(value) for value in output["data"]} == ({str} if name in TEXTS else {float})
    assert [output["name"] for output in answer["outputs"]] == (WITH_DETAIL if detail else OUTPUTS)
    asked = {"inputs": [text], "outputs": [{"name": "modalities_used"}, {"name": "label"}]}
    outputs = httpx.post(f"{server.url}/v2/models/mistere/infer", json=asked, timeout=60).json()["outputs"]
    assert [output["name"] for output in outputs] == ["modalities_used", "label"]


def test_grpc(server: Server) -> None:
    message = pb.ModelInferRequest(model_name="mistere")
    message.inputs.add(name="text", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"Hello?", b"Yes."])
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=60)
    assert [(output.name, list(output.shape)) for output in answer.outputs] == [
        (name, SHAPES[name]) for name in OUTPUTS
    ]
    assert sorted(answer.parameters) == sorted(PARAMETERS)


def test_the_metadata_names_the_same_tensors(server: Server) -> None:
    metadata = httpx.get(f"{server.url}/v2/models/mistere", timeout=60).json()
    raw = ["text", "audio", "audio_digest"]  # this server reads no audio_uri
    assert [one["name"] for one in metadata["inputs"]] == [*raw, "predict", "speech_embedding", "text_embedding"]
    assert [one["name"] for one in metadata["outputs"]] == [*WITH_DETAIL, *EXPLANATION_OUTPUTS]


def test_the_metadata_states_the_options_that_clients_may_know(server: Server) -> None:
    properties = httpx.get(f"{server.url}/v2/models/mistere", timeout=60).json()["properties"]
    expected = stated(PredictorConfig(max_seconds=5, sample_share=1, request_log_share=1))
    assert {name: value for name, value in properties.items() if name.startswith("option.")} == expected
    assert properties["limit.utterance_seconds"] == "5.0"
    assert "option.traffic_store" not in properties and "option.audio_uri_prefixes" not in properties
