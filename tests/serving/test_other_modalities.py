"""A model with a face and a vector beside speech and text: its tensors, its limits, and the same answer by every way."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import mistere
from mistere.common.errors import UsageError
from mistere.config.predictor import PredictorConfig
from mistere.data.dataset import Utterance
from mistere.data.kinds.frames import encode_frame
from mistere.predictor.errors import RequestError
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.protocol.openapi import build_document
from mistere.predictor.protocol.wire import parse_json, read_rest
from mistere.predictor.settings import Limits, ServerSettings
from mistere.serving.example_dialogue import Example, read_example, sendable, write_example
from mistere.serving.other_tensors import json_fields, json_tensor, other_columns
from tests.serving.conftest import clip

WIDTH = 12
"""Of the vectors that the family's random base reads."""


@dataclass(frozen=True)
class Turn:
    text: str | None = None
    audio: bytes | None = None
    others: dict[str, Any] = field(default_factory=dict)


def image(shade: int, size: int = 40) -> bytes:
    return encode_frame(np.full((size, size, 3), shade, np.uint8))


DIALOGUE = [
    Turn("Where have you been?", clip(0.7), {"face": (image(10), image(200)), "acoustic": np.ones(WIDTH, np.float32)}),
    Turn("At home.", None, {"face": (image(90),)}),
    Turn(None, None, {"acoustic": np.full(WIDTH, -1, np.float32)}),
    Turn(),
]


@pytest.fixture(scope="module")
def predictor(bundle_of_four: str) -> EmotionPredictor:
    from mistere.model.inference import load_bundle

    made = EmotionPredictor(ServerSettings(bundle_of_four, options=PredictorConfig(max_total_tokens=3000)), load_bundle)
    made.load()
    return made


LOOP = asyncio.new_event_loop()
"""The server's loop, in which its batches run from the first request on."""


def ask(predictor: EmotionPredictor, body: dict[str, Any], v1: bool = False) -> Any:
    """The answer to a JSON body, and the request's model is the predictor's."""
    data = json.dumps(body).encode()
    request = parse_json(data) if v1 else read_rest(data, None, "mistere")
    headers = {"content-length": str(len(data))}

    return LOOP.run_until_complete(asyncio.wait_for(predictor.predict(request, headers), 60))


def v2(turns: list[Turn]) -> dict[str, Any]:
    inputs = [json_tensor(name, rows) for name, rows in other_columns(turns).items()]
    inputs.append(
        {"name": "text", "datatype": "BYTES", "shape": [len(turns)], "data": [turn.text or "" for turn in turns]}
    )
    return {"inputs": inputs}


def refused(predictor: EmotionPredictor, body: dict[str, Any], v1: bool = False) -> str:
    with pytest.raises(RequestError) as caught:
        ask(predictor, body, v1)
    assert caught.value.code in (400, 413) and caught.value.message.endswith(".")
    return caught.value.message


def test_every_way_gives_the_same_answer(predictor: EmotionPredictor, bundle_of_four: str) -> None:
    turns = [replace(turn, audio=None) for turn in DIALOGUE]
    model = mistere.load(bundle_of_four)
    here = model.predict([{"text": turn.text, **{n: list(c) for n, c in turn.others.items()}} for turn in turns])
    assert here.modalities == ["text+face+acoustic", "text+face", "acoustic", "none"]
    by_tensor = ask(predictor, v2(turns))
    outputs = {output.name: output.as_numpy() for output in by_tensor.outputs}
    np.testing.assert_allclose(outputs["probabilities"], here.probabilities, atol=1e-5)
    utterances = [{"text": turn.text, **json_fields(turn)} for turn in turns]
    by_json = ask(predictor, {"instances": [{"utterances": utterances}]}, v1=True)
    np.testing.assert_allclose(by_json["predictions"][0]["probabilities"], here.probabilities, atol=1e-5)
    assert by_json["predictions"][0]["modalities_used"] == here.modalities
    assert outputs["expert_weights"].shape == (4, 5), "an expert of each modality, and the one across them"


def test_another_face_gives_another_answer(predictor: EmotionPredictor) -> None:
    first, second = (
        ask(predictor, v2([Turn(None, None, {"face": (image(shade),)})])).outputs[1].as_numpy() for shade in (5, 250)
    )
    assert np.abs(first - second).max() > 1e-6


def test_metadata_names_the_tensors_and_their_limits(predictor: EmotionPredictor) -> None:
    from mistere.predictor.protocol.metadata import stated_limits

    types = {one["name"]: one for one in predictor.get_input_types()}
    assert types["face"] == {"name": "face", "datatype": "BYTES", "shape": [-1, -1]}
    assert types["acoustic"] == {"name": "acoustic", "datatype": "FP32", "shape": [-1, WIDTH]}
    assert stated_limits(predictor.loaded)["limit.face.frame_pixels"] == "8294400"


def test_the_api_document_has_a_schema_of_each_tensor(predictor: EmotionPredictor) -> None:
    metadata = {"inputs": predictor.get_input_types(), "properties": {}}
    schemas = build_document(Limits(), "four", metadata)["components"]["schemas"]
    tensors = schemas["InferRequest"]["properties"]["inputs"]["items"]["oneOf"]
    datatypes = {one["properties"]["name"]["const"]: one["properties"]["datatype"].get("const") for one in tensors}
    assert datatypes["face"] == "BYTES" and datatypes["acoustic"] == "FP32" and "face_embedding" in datatypes
    validator = jsonschema.Draft202012Validator(schemas["InferRequest"]["properties"]["inputs"]["items"])
    for tensor in v2(DIALOGUE)["inputs"]:
        validator.validate(json.loads(json.dumps(tensor)))


def vectors(data: list[Any], shape: list[int]) -> dict[str, Any]:
    return {"inputs": [{"name": "acoustic", "datatype": "FP32", "shape": shape, "data": data}]}


def faces(data: list[Any], shape: list[int], **parameters: Any) -> dict[str, Any]:
    tensor = {"name": "face", "datatype": "BYTES", "shape": shape, "data": data, "parameters": parameters}
    return {"inputs": [tensor]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (vectors([1.0] * 4, [1, 4]), "The tensor acoustic must have 12 columns; it has 4."),
        (vectors([1.0] * 12, [12]), "must have the shape [n, d]"),
        (vectors([1.0] * 11 + [None], [1, 12]), "The acoustic of utterance 0 cannot be read: the vector holds NaN"),
        (vectors([1e39] * 12, [1, 12]), "the vector holds NaN or infinity"),
        (vectors(["a"] * 12, [1, 12]), "must hold numbers only"),
        (faces(["eA=="], [1, 1], content_type="base64"), "frame 0 is no JPEG or PNG image"),
        (faces(["x"], [1, 1]), "Face in JSON is base64"),
        (faces(["x"], [2, 1], content_type="base64"), "does not hold the 2 elements"),
        (faces(["eA=="] * 65, [1, 65], content_type="base64"), "there are 65 frames; at most 64"),
        (faces(["?"], [1, 1], content_type="base64"), "is not valid base64"),
        ({"inputs": [{"name": "faces", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}, "Unknown tensor 'faces'"),
        (vectors([None] * 12, [1, 12]), "No utterance of the dialogue has anything this model reads"),
    ],
)
def test_a_bad_tensor_is_one_sentence(predictor: EmotionPredictor, body: dict[str, Any], message: str) -> None:
    assert message in refused(predictor, body)


@pytest.mark.parametrize(
    ("utterance", "message"),
    [
        ({"face": "eA=="}, "The field face of utterance 0 must be a list of base64 strings."),
        ({"acoustic": [1, "2"]}, "The field acoustic of utterance 0 must be a list of numbers."),
        ({"acoustic": [1, 2]}, "The field acoustic of utterance 0 must have 12 numbers; it has 2."),
        ({"pose": []}, "Unknown field 'pose'; known: text, audio, audio_uri, audio_digest, face, acoustic, predict."),
    ],
)
def test_a_bad_json_field_is_one_sentence(predictor: EmotionPredictor, utterance: Any, message: str) -> None:
    assert message in refused(predictor, {"instances": [{"utterances": [utterance]}]}, v1=True)


def test_a_damaged_image_is_found_when_it_is_decoded(predictor: EmotionPredictor) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    message = refused(predictor, v2([Turn("well", None, {"face": (image(1), encode_frame(noise)[:-3000])})]))
    assert "The face of utterance 0 cannot be read: frame 1 does not decode" in message


def test_new_images_are_limited_by_their_cost(predictor: EmotionPredictor) -> None:
    turns = [Turn(None, None, {"face": tuple(image(8 * turn + shade) for shade in range(8))}) for turn in range(3)]
    assert "A request may hold 3000 tokens" in refused(predictor, v2(turns))


@pytest.mark.parametrize(
    ("utterance", "message"),
    [
        ({"face": ["missing.png"]}, "there is no face file"),
        ({"face": [b"x"]}, "The face of utterance 0 cannot be read"),
        ({"face": [0.1]}, "The face of utterance 0 must be a list of files."),
        ({"acoustic": [1, "a"]}, "acoustic is a list of numbers, or a list of image files"),
        ({"acoustic": [b"x"]}, "The acoustic of utterance 0 must be a list of numbers."),
        ({"acoustic": [0.1, 0.2]}, "The acoustic of utterance 0 must have 12 numbers; it has 2."),
    ],
)
def test_the_python_interface_names_what_is_wrong(bundle_of_four: str, utterance: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mistere.load(bundle_of_four).predict([utterance])


def test_an_example_dialogue_keeps_its_images_and_vectors(tmp_path: Path) -> None:
    others = {"face": (image(3), image(4)), "acoustic": np.arange(3, dtype=np.float32)}
    dialogue = sendable([Utterance("d", 0, "joy", "well", None, None, others)])
    assert dialogue is not None
    write_example(tmp_path, Example(dialogue, np.full((1, 2), 0.5, np.float32)))
    example = read_example(tmp_path)
    assert example is not None and example.turns[0].others["face"] == others["face"]
    np.testing.assert_array_equal(example.dialogue[0].others["acoustic"], others["acoustic"])
