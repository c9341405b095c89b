"""A bundle that transcribes: utterances with audio and no text are answered as with their transcript, unless the client declines."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from kserve import InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput
from openapi_spec_validator import validate

import mistere
from mistere.model.dialogue_model import EmotionModel, UtteranceInput
from mistere.model.inference import load_bundle
from mistere.predictor.errors import RequestError
from mistere.predictor.in_process import LoadedModel
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.protocol.openapi import build_document
from mistere.predictor.settings import Limits, ServerSettings
from tests.local.workshop import mistere_in_process
from tests.serving.conftest import clip, launch, make_bundle

CLIP = clip(0.8, pitch=300)
LOOP = asyncio.new_event_loop()
"""The queues of a predictor belong to one loop."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("transcribing"), transcribes=True)


@pytest.fixture(scope="module")
def model(bundle: str) -> EmotionModel:
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def predictor(bundle: str, model: EmotionModel) -> EmotionPredictor:
    loaded = EmotionPredictor(ServerSettings(bundle=bundle), lambda _: model)
    loaded.load()
    return loaded


def sources(answer: Any) -> list[str]:
    """The output ``text_source`` of a V2 answer."""
    return next(list(output.data) for output in answer.outputs if output.name == "text_source")


def body(*utterances: dict[str, str], **parameters: Any) -> dict[str, Any]:
    return {"instances": [{"utterances": list(utterances)}], "parameters": parameters}


def ask(predictor: EmotionPredictor, request: dict[str, Any], instance: int = 0) -> dict[str, Any]:
    response = LOOP.run_until_complete(asyncio.wait_for(predictor.predict(request), 120))
    assert isinstance(response, dict)
    return dict(response["predictions"][instance])


def encoded(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def test_an_utterance_without_text_is_answered_with_its_transcript(
    predictor: EmotionPredictor, model: EmotionModel
) -> None:
    (turn,) = model.transcribed([UtteranceInput(audio=CLIP)])
    assert turn.text
    heard = ask(predictor, body({"audio": encoded(CLIP)}))
    written = ask(predictor, body({"audio": encoded(CLIP), "text": turn.text}))
    assert (heard.pop("text_source"), written.pop("text_source")) == (["asr"], ["human"])
    assert heard == written and heard["modalities_used"] == ["speech+text"]
    offline = LoadedModel(model).predict([UtteranceInput(audio=CLIP)])
    np.testing.assert_allclose(offline.probabilities, heard["probabilities"], atol=1e-5)


def test_a_client_declines(predictor: EmotionPredictor) -> None:
    declined = ask(predictor, body({"audio": encoded(CLIP)}, transcribe=False))
    assert declined["modalities_used"] == ["speech"] and declined["text_source"] == ["none"]
    with pytest.raises(RequestError, match="'transcribe' of a request must be true or false"):
        ask(predictor, body({"audio": encoded(CLIP)}, transcribe="no"))


def test_a_human_text_is_kept(predictor: EmotionPredictor, model: EmotionModel) -> None:
    sent = UtteranceInput("Where have you been?", CLIP)
    assert list(model.transcribed([sent])) == [sent]
    kept = ask(predictor, body({"audio": encoded(CLIP), "text": "Where have you been?"}))
    assert kept == ask(predictor, body({"audio": encoded(CLIP), "text": "Where have you been?"}, transcribe=False))


def test_a_transcript_is_computed_once(
    predictor: EmotionPredictor, model: EmotionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(predictor, body({"audio": encoded(CLIP)}))
    assert model.transcriber is not None

    def unexpected(*_: Any) -> Any:
        raise AssertionError("transcribed again")

    monkeypatch.setattr(model.transcriber, "texts", unexpected)
    assert ask(predictor, body({"audio": encoded(CLIP)})) == first


def test_bad_audio_and_unknown_digests_are_refused_as_without_transcription(predictor: EmotionPredictor) -> None:
    with pytest.raises(RequestError, match="The audio of utterance 0 does not decode") as refused:
        ask(predictor, body({"audio": encoded(b"RIFF but no audio")}))
    assert refused.value.code == 415
    with pytest.raises(RequestError) as unknown:
        ask(predictor, body({"audio_digest": "0" * 64}))
    assert unknown.value.code == 409


def test_a_model_of_text_answers_speech(tmp_path: Path) -> None:
    model = load_bundle(make_bundle(tmp_path, ("text",), transcribes=True))
    predictor = EmotionPredictor(ServerSettings(bundle=""), lambda _: model)
    predictor.load()
    assert ask(predictor, body({"audio": encoded(CLIP)}))["modalities_used"] == ["text"]
    with pytest.raises(RequestError, match="No utterance of the dialogue has anything this model reads"):
        ask(predictor, body({"audio": encoded(CLIP)}, transcribe=False))


def test_every_utterance_says_where_its_text_comes_from(predictor: EmotionPredictor, model: EmotionModel) -> None:
    turns = [UtteranceInput(audio=CLIP), UtteranceInput("Well.", CLIP), UtteranceInput("Well."), UtteranceInput()]
    expected = ["asr", "human", "human", "none"]
    sent = [{"audio": encoded(CLIP)}, {"text": "Well.", "audio": encoded(CLIP)}, {"text": "Well."}, {}]
    assert ask(predictor, body(*sent))["text_source"] == expected
    offline = LoadedModel(model)
    assert offline.predict(turns).text_sources == expected
    declined = offline.predict(turns, transcribe=False)
    assert declined.text_sources == ["none", *expected[1:]] and declined.modalities[0] == "speech"
    first, second = (
        ask(predictor, {"instances": [{"utterances": one} for one in (sent[:1], sent[2:])]}, instance)
        for instance in (0, 1)
    )
    assert (first["text_source"], second["text_source"]) == (["asr"], ["human", "none"])


def test_the_output_is_declared_and_can_be_asked_for(predictor: EmotionPredictor) -> None:
    assert {"name": "text_source", "datatype": "BYTES", "shape": [-1]} in predictor.get_output_types()
    tensor = InferInput("text", [2], "BYTES", data=["Well.", ""])
    asked = InferRequest("mistere", [tensor], request_outputs=[RequestedOutput("text_source")])
    answer = LOOP.run_until_complete(predictor.predict(asked))
    assert [output.name for output in answer.outputs] == ["text_source"] and sources(answer) == ["human", "none"]
    vectors = [InferInput(f"{name}_embedding", [1, 16], "FP32", data=[0.5] * 16) for name in ("speech", "text")]
    digests = {"encoder_digest": "s" * 64 + "," + "t" * 64}
    answer = LOOP.run_until_complete(predictor.predict(InferRequest("mistere", vectors, parameters=digests)))
    assert sources(answer) == ["none"]


def test_the_api_document_of_such_a_model_describes_the_output(predictor: EmotionPredictor) -> None:
    metadata = {"inputs": predictor.get_input_types(), "outputs": predictor.get_output_types(), "properties": {}}
    document = build_document(Limits(), "mistere", metadata)
    validate(document)
    schemas = document["components"]["schemas"]
    answer = {"id": "1", "predictions": [ask(predictor, body({"text": "Well."}))], "parameters": {}}
    prediction = schemas["PredictResponse"]["properties"]["predictions"]["items"]
    Draft202012Validator(prediction).validate(answer["predictions"][0])
    assert not Draft202012Validator(prediction).is_valid(answer["predictions"][0] | {"text_source": ["machine"]})
    assert "text_source" in schemas["InferRequest"]["properties"]["outputs"]["items"]["properties"]["name"]["enum"]
    outputs = schemas["InferResponse"]["properties"]["outputs"]["items"]["oneOf"]
    assert [output["properties"]["name"]["const"] for output in outputs][-1] == "text_source"
    assert "text_source" not in json.dumps(build_document(Limits()))


@pytest.mark.long
def test_over_http(bundle: str, tmp_path: Path) -> None:
    server = launch(["-m", "mistere.predictor"], bundle, tmp_path / "server.log")
    try:
        server.client.wait_ready(300)
        url = f"{server.url}/v2/models/mistere/infer"
        audio = {"name": "audio", "datatype": "BYTES", "shape": [1], "data": [encoded(CLIP)]}
        audio["parameters"] = {"content_type": "base64"}
        used = []
        for parameters in ({}, {"transcribe": False}):
            answer = httpx.post(url, json={"inputs": [audio], "parameters": parameters}, timeout=60).json()
            used += [one["data"] for one in answer["outputs"] if one["name"] == "modalities_used"]
        assert used == [["speech+text"], ["speech"]]
        turns = [UtteranceInput(audio=CLIP), UtteranceInput("Well."), UtteranceInput()]
        for predict in (server.client.predict_rest, server.client.predict_v1, server.client.predict_grpc):
            assert predict(turns).text_sources == ["asr", "human", "none"]
            assert predict(turns, transcribe=False).text_sources == ["none", "human", "none"]
        assert mistere.connect(server.url).predict(["Well."], transcribe=False).text_sources == ["human"]
        (tmp_path / "turn.wav").write_bytes(CLIP)
        (tmp_path / "dialogue.json").write_text('[{"audio": "turn.wav"}, {"text": "Well."}]')
        for options, expected in (([], ["asr", "human"]), (["--no-transcribe"], ["none", "human"])):
            command = [
                "predict",
                "--dialogue",
                str(tmp_path / "dialogue.json"),
                "--url",
                server.url,
                "--json",
                *options,
            ]
            document = json.loads(mistere_in_process(*command).stdout)
            assert [utterance["text_source"] for utterance in document["utterances"]] == expected
        assert 'mistere_transcripts_total{found="miss"} 1.0' in httpx.get(f"{server.url}/metrics", timeout=60).text
    finally:
        assert server.terminate() == 0
