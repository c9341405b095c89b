"""A model without encoders: what the predictor takes, answers and refuses, for any name of a modality."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kserve import InferInput, InferRequest

from mistere.artifacts.io import artifact_key, open_artifact, publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.model.dialogue_model import EmotionModel
from mistere.model.inference import load_bundle
from mistere.predictor.errors import RequestError
from mistere.predictor.in_process import LoadedModel
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.protocol.openapi import build_document
from mistere.predictor.protocol.wire import read_rest
from mistere.predictor.settings import Limits, ServerSettings
from mistere.serving.example_dialogue import Example, read_example, write_example
from mistere.serving.vectors import VectorDialogue
from tests.serving.conftest import LABELS, make_vectors_bundle

ROWS = {
    "text": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "face": np.linspace(0, 2, 9, dtype=np.float32).reshape(3, 3),
}
DIGEST = "t" * 64


@pytest.fixture(scope="module")
def vectors_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_vectors_bundle(tmp_path_factory.mktemp("vectors"), {"text": 4, "face": 3}, {"text": DIGEST})


@pytest.fixture(scope="module")
def model(vectors_bundle: str) -> EmotionModel:
    return load_bundle(vectors_bundle)


@pytest.fixture(scope="module")
def predictor(vectors_bundle: str) -> EmotionPredictor:
    predictor = EmotionPredictor(ServerSettings(bundle=vectors_bundle), load_bundle)
    predictor.load()
    return predictor


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One event loop for all requests: the predictor's queue belongs to the loop of its first one."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


Ask = Callable[..., Any]


@pytest.fixture
def answered(predictor: EmotionPredictor, loop: asyncio.AbstractEventLoop) -> Ask:
    return lambda body: loop.run_until_complete(asyncio.wait_for(predictor.predict(body), 60))


@pytest.fixture
def ask(answered: Ask) -> Ask:
    """Send rows by modality."""

    def send(rows: dict[str, np.ndarray], **parameters: Any) -> Any:
        inputs = [tensor(f"{name}_embedding", matrix) for name, matrix in rows.items()]
        named = {"encoder_digest": DIGEST} if "text" in rows else {}
        return answered(InferRequest("mistere", inputs, parameters=named | parameters))

    return send


def tensor(name: str, rows: np.ndarray) -> InferInput:
    item = InferInput(name, list(rows.shape), "FP32")
    item.set_data_from_numpy(rows, binary_data=True)
    return item


def test_every_modality_of_the_model_is_a_tensor(ask: Ask, predictor: EmotionPredictor, model: EmotionModel) -> None:
    answer = ask(ROWS)
    (expected,) = model.predict_embeddings([ROWS])
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    np.testing.assert_allclose(outputs["probabilities"], expected.probabilities, atol=1e-6)
    assert answer.parameters["experts"] == "speech,text,cross_modal,face"
    assert outputs["expert_weights"].shape == (3, 4) and not outputs["expert_weights"][:, 0].any()
    assert list(outputs["modalities_used"]) == ["text+face"] * 3
    assert ask({"face": ROWS["face"]}).outputs  # whose encoder is not recorded
    names = [item["name"] for item in predictor.get_input_types()]
    assert names == ["predict", "text_embedding", "face_embedding"]


def test_a_row_of_nan_is_a_missing_modality_only_if_the_request_says_so(ask: Ask) -> None:
    rows = {**ROWS, "face": ROWS["face"].copy()}
    rows["face"][1] = np.nan
    with pytest.raises(RequestError, match="face_embedding holds NaN"):
        ask(rows)
    answer = ask(rows, nan_is_missing=True)
    used = next(output for output in answer.outputs if output.name == "modalities_used")
    assert list(used.as_numpy()) == ["text+face", "text", "text+face"]
    rows["face"][2, 0] = np.nan
    with pytest.raises(RequestError, match="face_embedding holds NaN"):
        ask(rows, nan_is_missing=True)
    nothing = {"face": np.full((2, 3), np.nan, np.float32)}
    with pytest.raises(RequestError, match=r"anything this model reads \(face\): every row is NaN"):
        ask(nothing, nan_is_missing=True)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {"instances": [{"utterances": [{"text": "Hello?"}]}]},
            r"This model takes vectors, not text or audio: send text_embedding \[n, 4\] and face_embedding \[n, 3\] \(FP32\) by the V2 ",
        ),
        (InferRequest("mistere", [InferInput("text", [1], "BYTES", ["Hello?"])]), "takes vectors, not text or audio"),
        (InferRequest("mistere", [tensor("speech_embedding", ROWS["text"])]), "This model does not read speech"),
        (InferRequest("mistere", [tensor("gaze_embedding", ROWS["text"])]), "Unknown tensor 'gaze_embedding'"),
        (InferRequest("mistere", [tensor("text_embedding", ROWS["text"])]), f"must name the encoder .* {DIGEST}"),
        (InferRequest("mistere", [tensor("face_embedding", ROWS["text"])]), "must have 3 columns; it has 4"),
        (
            InferRequest("mistere", [tensor("face_embedding", ROWS["face"])], parameters={"encoder_digest": "f"}),
            "not recorded: leave the parameter encoder_digest out",
        ),
    ],
)
def test_other_input_is_refused_with_one_sentence(answered: Ask, body: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        answered(body)


def test_the_openapi_document_has_the_vectors_alone(predictor: EmotionPredictor) -> None:
    metadata = {"inputs": predictor.get_input_types(), "properties": {"encoder_digest.text": DIGEST}}
    document = build_document(Limits(), "mistere", metadata)
    tensors = document["components"]["schemas"]["InferRequest"]["properties"]["inputs"]["items"]["oneOf"]
    names = {tensor["properties"]["name"]["const"] for tensor in tensors}
    assert names == {"predict", "speech_embedding", "text_embedding", "face_embedding"}
    examples = document["paths"]["/v2/models/{model_name}/infer"]["post"]["requestBody"]["content"]["application/json"]
    assert set(examples["examples"]) == {"text_embedding", "face_embedding"}


def test_vectors_in_python(model: EmotionModel) -> None:
    loaded = LoadedModel(model)
    dialogue = [{"text_embedding": ROWS["text"][0].tolist()}, {"face_embedding": [0.1, 0.2, 0.3]}]
    answer = loaded.predict(dialogue, encoder_digest=DIGEST)
    assert answer.modalities == ["text", "face"] and answer.labels == LABELS
    for wrong, sentence in (
        (["Hello?"], "takes vectors, not text or audio"),
        ([{"text_embedding": [1.0]}], "A text vector must have 4 numbers; these have 1"),
        ([{"text_embedding": ["a"]}], "utterance 0: text_embedding is a list of numbers"),
        ([{"face_embedding": [1, 2, 3], "text": "Hello?"}], "utterance 0: 'text' is no vector"),
        ([{"face_embedding": [1, 2, 3]}, {"face_embedding": [1, 2]}], "utterance 1: its face vector has 2 numbers"),
    ):
        with pytest.raises(UsageError, match=sentence):
            loaded.predict(wrong, encoder_digest=DIGEST)


def test_an_example_of_vectors_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = {**ROWS, "face": ROWS["face"].copy()}
    rows["face"][0] = np.nan
    write_example(tmp_path, Example(VectorDialogue(rows, DIGEST), np.full((3, 4), 0.25, np.float32)))
    example = read_example(tmp_path)
    assert example is not None and isinstance(example.dialogue, VectorDialogue)
    assert example.dialogue.encoder_digest == DIGEST
    for name, matrix in rows.items():
        np.testing.assert_array_equal(example.dialogue.vectors[name], matrix)


def test_a_bundle_whose_vectors_are_not_its_mixtures_is_refused(vectors_bundle: str) -> None:
    root, _, digest = vectors_bundle.partition("/artifacts/ModelBundle/")
    store = LocalStore(Path(root))
    opened = open_artifact(store, ModelBundle, digest)
    work = store.local_path("work")
    work.mkdir()
    for name in opened.manifest.files:
        (work / name).write_bytes(opened.file(name).read_bytes())
    wrong = opened.manifest.model_copy(update={"vectors": {"text": opened.manifest.vectors["text"]}})
    published = publish(store, wrong, work)
    with pytest.raises(Exception, match="its vectors are not those of its mixture"):
        load_bundle(store.location(artifact_key("ModelBundle", published.digest)))


def test_null_in_json_is_a_missing_row_if_the_request_says_so(answered: Ask) -> None:
    rows = {"name": "face_embedding", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, None, None, None]}
    with pytest.raises(RequestError, match="must hold numbers only"):
        answered(read_rest(json.dumps({"inputs": [rows]}).encode(), None, "mistere"))
    body = {"inputs": [rows], "parameters": {"nan_is_missing": True}}
    answer = answered(read_rest(json.dumps(body).encode(), None, "mistere"))
    used = next(output for output in answer.outputs if output.name == "modalities_used")
    assert list(used.as_numpy()) == ["face", "none"]
