"""The endpoint takes every recording that training takes, with the same samples, and prices it by its bytes."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
import soundfile

from mistere.data.audio import decode
from mistere.data.recordings import formats
from mistere.model.inference import load_bundle
from mistere.predictor.encoding.encoder import CachedEncoder
from mistere.predictor.errors import RequestError
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.settings import Limits
from tests.recordings import SECONDS, every_file, unstated
from tests.serving.conftest import Server, Utterance


def as_floats(wave: np.ndarray, rate: int) -> bytes:
    """Samples as a WAV file which needs no decoding."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.long
def test_every_accepted_file_is_answered_as_its_samples_are(server: Server) -> None:
    files = every_file()
    sent = server.client.predict_grpc([Utterance(audio=data) for data in files.values()])
    samples = [decode(data) for data in files.values()]
    expected = server.client.predict_grpc([Utterance(audio=as_floats(*each)) for each in samples])
    np.testing.assert_allclose(sent.probabilities, expected.probabilities, atol=1e-6)
    assert sent.modalities == ["speech"] * len(files)
    changed = server.client.predict_grpc([Utterance(audio=as_floats(wave[::2], rate)) for wave, rate in samples[:4]])
    same = server.client.predict_grpc([Utterance(audio=as_floats(*each)) for each in samples[:4]])
    assert np.abs(changed.probabilities - same.probabilities).max() > 1e-4


def test_the_metadata_states_the_table_of_accepted_audio(server: Server) -> None:
    properties = httpx.get(f"{server.url}/v2/models/mistere", timeout=60).json()["properties"]
    assert {key: value for key, value in properties.items() if key.startswith("audio.")} == formats.stated()
    assert properties["audio.mp3"] and "µ-law" in properties["audio.wav"]


def test_the_limit_of_a_request_holds_for_recordings_that_state_too_little(bundle: str) -> None:
    names = ["wav of sizes 0", "flac of too short a length", "mp3 of variable bitrate without a length"]
    turns = [RequestTurn(audio=unstated()[name][0]) for name in names]
    model = load_bundle(bundle)
    encoder = CachedEncoder(model, Limits(request_seconds=3 * SECONDS - 0.1), Pace())
    with pytest.raises(RequestError, match=r"A request may hold 3\.5 seconds of audio") as refused:
        encoder.price_clips(encoder.plan([turns]))
    assert refused.value.code == 413
    encoder = CachedEncoder(model, Limits(), Pace())
    plan = encoder.plan([turns])
    encoder.price_clips(plan)
    assert 3 * SECONDS <= plan.price < 3 * SECONDS + 0.2
