"""A bundle that transcribes: utterances with audio and no text are answered as with their transcript, unless the client declines."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mistere.model.inference import EmotionModel, UtteranceInput, load_bundle
from mistere.predictor.errors import RequestError
from mistere.predictor.in_process import LoadedModel
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.settings import ServerSettings
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


def body(*utterances: dict[str, str], **parameters: Any) -> dict[str, Any]:
    return {"instances": [{"utterances": list(utterances)}], "parameters": parameters}


def ask(predictor: EmotionPredictor, request: dict[str, Any]) -> dict[str, Any]:
    response = LOOP.run_until_complete(asyncio.wait_for(predictor.predict(request), 120))
    assert isinstance(response, dict)
    (prediction,) = response["predictions"]
    return dict(prediction)


def encoded(audio: bytes) -> str:
    return base64.b64encode(audio).decode()


def test_an_utterance_without_text_is_answered_with_its_transcript(
    predictor: EmotionPredictor, model: EmotionModel
) -> None:
    (turn,) = model.transcribed([UtteranceInput(audio=CLIP)])
    assert turn.text
    heard = ask(predictor, body({"audio": encoded(CLIP)}))
    written = ask(predictor, body({"audio": encoded(CLIP), "text": turn.text}))
    assert heard == written and heard["modalities_used"] == ["speech+text"]
    offline = LoadedModel(model).predict([UtteranceInput(audio=CLIP)])
    np.testing.assert_allclose(offline.probabilities, heard["probabilities"], atol=1e-5)


def test_a_client_declines(predictor: EmotionPredictor) -> None:
    declined = ask(predictor, body({"audio": encoded(CLIP)}, transcribe=False))
    assert declined["modalities_used"] == ["speech"]
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
        assert 'mistere_transcripts_total{found="miss"} 1.0' in httpx.get(f"{server.url}/metrics", timeout=60).text
    finally:
        assert server.terminate() == 0
