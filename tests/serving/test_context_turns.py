"""Utterances that are sent as context only: their rows are zeros, the others' answers are those of the whole dialogue."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

import mistere
from mistere.common.errors import UsageError
from pipelines.cli.commands.predict import answer_document, read_dialogue
from tests.serving.conftest import LABELS, Server, Utterance
from tests.serving.test_errors import DIGEST, HI, infer, refused, tensor

TEXTS = ["Where have you been?", "At home, why?", "How dare you!"]
FLAGS = [True, False, True]


@dataclass(frozen=True)
class Turn:
    """An utterance with the mark that the client reads."""

    text: str | None = None
    audio: bytes | None = None
    predict: bool = True


@pytest.fixture(scope="module")
def marked(dialogue: list[Utterance]) -> list[Turn]:
    """The second utterance of the dialogue is context only."""
    return [Turn(one.text, one.audio, index != 1) for index, one in enumerate(dialogue)]


def check(answer: Any, whole: Any, context: Sequence[int]) -> None:
    """Compare an answer with that of the same dialogue in which every utterance is predicted."""
    others = [index for index in range(len(whole.predicted)) if index not in context]
    for name in ("probabilities", "expert_weights", "expert_probabilities"):
        rows, expected = getattr(answer, name), getattr(whole, name)
        assert not rows[list(context)].any()
        np.testing.assert_allclose(rows[others], expected[others], atol=1e-6)
    assert [answer.predicted[index] for index in context] == [""] * len(context)
    assert [answer.predicted[index] for index in others] == [whole.predicted[index] for index in others]
    assert answer.modalities == whole.modalities


@pytest.mark.parametrize("method", ["predict_rest", "predict_grpc", "predict_v1"])
def test_every_protocol_answers_zeros_for_context(server: Server, marked: list[Turn], method: str) -> None:
    predict = getattr(server.client, method)
    whole = predict([Turn(one.text, one.audio) for one in marked], detail=True)
    check(predict(marked, detail=True), whole, [1])
    everything = predict([Turn(one.text, one.audio, False) for one in marked], detail=True)
    check(everything, whole, range(len(marked)))


def test_the_same_without_a_server(server: Server, bundle: str, marked: list[Turn]) -> None:
    local = mistere.load(bundle).predict(marked, detail=True)
    remote = server.client.predict_rest(marked, detail=True)
    check(local, server.client.predict_rest([Turn(one.text, one.audio) for one in marked], detail=True), [1])
    np.testing.assert_allclose(local.probabilities, remote.probabilities, atol=1e-5)
    with pytest.raises(UsageError, match="utterance 0: predict is true or false"):
        mistere.load(bundle).predict([{"text": "Hi.", "predict": "no"}])


def labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return next(output["data"] for output in response.json()["outputs"] if output["name"] == "label")


@pytest.mark.parametrize(
    "flags",
    [
        tensor("predict", FLAGS, datatype="BOOL"),
        tensor("predict", [[flag] for flag in FLAGS], [3, 1], "BOOL"),
        tensor("predict", ["true", "false", "true"]),
        tensor("predict", [["True"], ["False"], ["True"]], [3, 1]),
    ],
    ids=["BOOL", "BOOL column", "BYTES", "BYTES column"],
)
def test_each_form_of_the_tensor_is_read(server: Server, flags: dict[str, Any]) -> None:
    answer = labels(infer(server, tensor("text", TEXTS), flags))
    assert answer[1] == "" and answer[0] in LABELS and answer[2] in LABELS


@pytest.mark.parametrize(
    ("datatype", "raw"), [("BOOL", b"\1\0\1"), ("BYTES", b"\4\0\0\0true\5\0\0\0false\4\0\0\0true")]
)
def test_binary_extension(server: Server, datatype: str, raw: bytes) -> None:
    flags = {"name": "predict", "datatype": datatype, "shape": [3], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor("text", TEXTS), flags]}).encode()
    url = f"{server.url}/v2/models/mistere/infer"
    response = httpx.post(url, content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))})
    assert labels(response)[1] == ""


def test_typed_contents_and_embeddings(server: Server) -> None:
    message = pb.ModelInferRequest(model_name="mistere")
    message.inputs.add(name="text", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"Hi.", b"Yes?"])
    message.inputs.add(name="predict", datatype="BOOL", shape=[2]).contents.bool_contents.extend([False, True])
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=20)
    assert answer.outputs[0].contents.bytes_contents[0] == b"" and answer.outputs[0].contents.bytes_contents[1]
    rows = tensor("text_embedding", [[0.5] * 16] * 2, [2, 16], "FP32")
    flags = tensor("predict", [False, True], datatype="BOOL")
    assert labels(infer(server, rows, flags, parameters=DIGEST))[0] == ""


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([HI, tensor("predict", [True, False], datatype="BOOL")], "an element for each utterance (1); it has 2"),
        ([HI, tensor("predict", [1], datatype="BOOL")], "Element 0 of the tensor predict is neither true nor false"),
        ([HI, tensor("predict", ["no"])], "Element 0 of the tensor predict is neither true nor false"),
        ([HI, tensor("predict", [None], datatype="BOOL")], "neither true nor false"),
        ([HI, tensor("predict", [[True, True]], [1], "BOOL")], "neither true nor false"),
        ([HI, tensor("predict", [True], [1, 1, 1], "BOOL")], "must have the shape [n] or [n, 1]"),
        ([HI, tensor("predict", [True], [10**9], "BOOL")], "elements of its shape"),
        ([HI, tensor("predict", [1], datatype="INT32")], "must have the datatype BOOL, or BYTES of true and false"),
        ([tensor("predict", [True], datatype="BOOL")], "no text, audio or embedding"),
        ([HI, *[tensor("predict", [True], datatype="BOOL")] * 2], "the tensor predict twice"),
        ([tensor("text", [True], datatype="BOOL")], "must have the datatype BYTES"),
    ],
)
def test_a_malformed_tensor_is_refused_in_one_sentence(
    server: Server, inputs: list[dict[str, Any]], words: str
) -> None:
    refused(infer(server, *inputs), 400, words)


@pytest.mark.parametrize("raw", [b"\2", b"\1\1", b""])
def test_raw_bytes_that_are_no_booleans_are_refused(server: Server, raw: bytes) -> None:
    flags = {"name": "predict", "datatype": "BOOL", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [HI, flags]}).encode()
    url = f"{server.url}/v2/models/mistere/infer"
    refused(httpx.post(url, content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))}), 400)


@pytest.mark.parametrize("value", ["false", 0, [], {}])
def test_a_field_that_is_no_boolean_is_refused(server: Server, value: object) -> None:
    body = {"instances": [{"utterances": [{"text": "Hi."}, {"text": "Yes?", "predict": value}]}]}
    url = f"{server.url}/v1/models/mistere:predict"
    refused(httpx.post(url, json=body), 400, "The field predict of utterance 1 must be true or false")
    body["instances"][0]["utterances"][1]["predict"] = None  # type: ignore[index]
    assert all(httpx.post(url, json=body).json()["predictions"][0]["label"])


def counted(server: Server, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics").text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def test_metrics_leave_context_out(server: Server) -> None:
    names = ("mistere_traffic_label_total", "mistere_traffic_modality_total", "mistere_context_utterances_total")
    before = [counted(server, name) for name in names]
    texts = [f"{text} {time.time_ns()}" for text in TEXTS]  # turns that were not counted before
    for _ in range(2):
        labels(infer(server, tensor("text", texts), tensor("predict", FLAGS, datatype="BOOL")))
    now = (counted(server, name) - was for name, was in zip(names, before, strict=True))
    assert list(now) == [2, 2, 2 * 1]


def test_a_label_counts_once_if_the_dialogue_goes_on_with_context(server: Server) -> None:
    before = counted(server, "mistere_last_label_total")
    for flags in ([True], [True, False], [True, False, False], [True, False, False, True]):
        labels(infer(server, tensor("text", ["Yes."] * len(flags)), tensor("predict", flags, datatype="BOOL")))
    assert counted(server, "mistere_last_label_total") - before == 2


def test_a_dialogue_file_marks_context(server: Server, tmp_path: Any) -> None:
    file = tmp_path / "dialogue.json"
    file.write_text(json.dumps([{"text": "Hello, how can I help?", "predict": False}, {"text": "I am furious."}]))
    turns = read_dialogue(file)
    document = answer_document(turns, server.client.predict_rest(turns))["utterances"]
    assert document[0]["label"] == "" and set(document[0]["probabilities"].values()) == {0.0} and document[1]["label"]
