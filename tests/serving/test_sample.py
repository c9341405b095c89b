"""Dialogues that the predictor keeps for labelling: by every protocol, only with consent, once, and deleted by their id."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.labelling.export import ExportOptions, export_tasks
from mistere.serving.sample.dialogue import KeptDialogue
from mistere.serving.sample.places import folder_of, hashing_key
from mistere.serving.sample.reading import read_dialogue, read_recording, read_vectors
from mistere.serving.vectors import VectorDialogue
from tests.local.workshop import mistere_in_process
from tests.serving.conftest import LABELS, Server, Utterance, clip
from tests.serving.test_stream import opened, silence, voice


@pytest.fixture(scope="module")
def store(bundle: str) -> LocalStore:
    return LocalStore(Path(bundle).parents[2])


def kept(store: LocalStore, dialogue_id: str) -> tuple[str, KeptDialogue] | None:
    key = hashing_key(store)
    dialogue = None if key is None else read_dialogue(store, folder_of(key, dialogue_id))
    return None if dialogue is None or key is None else (folder_of(key, dialogue_id), dialogue)


def wait_for_kept(store: LocalStore, dialogue_id: str, turns: int) -> tuple[str, KeptDialogue]:
    deadline = time.monotonic() + 60
    while (found := kept(store, dialogue_id)) is None or len(found[1].turns) < turns:
        assert time.monotonic() < deadline, f"{dialogue_id} was not kept"
        time.sleep(0.05)
    return found


def new_id(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex}"


def by_binary(server: Server, dialogue_id: str, texts: list[str]) -> None:
    raw = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"dialogue_id": dialogue_id, "consent": True}}).encode()
    url = f"{server.url}/v2/models/mistere/infer"
    response = httpx.post(url, content=head + raw, headers={"Inference-Header-Content-Length": str(len(head))})
    assert response.status_code == 200, response.text


def test_every_protocol_carries_id_and_consent(server: Server, store: LocalStore) -> None:
    dialogue = [Utterance("Where have you been?"), Utterance("At home.")]
    ids = {name: new_id(name) for name in ("rest", "v1", "grpc", "binary")}
    client = server.client
    for name, predict in (("rest", client.predict_rest), ("v1", client.predict_v1), ("grpc", client.predict_grpc)):
        answer = predict(dialogue, dialogue_id=ids[name], consent=True)
    by_binary(server, ids["binary"], [utterance.text or "" for utterance in dialogue])
    for dialogue_id in ids.values():
        _, found = wait_for_kept(store, dialogue_id, 2)
        assert [turn.text for turn in found.turns] == ["Where have you been?", "At home."]
        assert np.allclose(found.array("probabilities"), answer.probabilities, atol=1e-5)
        assert found.labels == LABELS and found.array("expert_probabilities").shape == (2, 3, len(LABELS))
        assert "speaker" not in found.model_dump_json() and dialogue_id not in found.model_dump_json()


def test_nothing_is_kept_without_consent(server: Server, store: LocalStore) -> None:
    refused, silent = new_id("refused"), new_id("silent")
    url = f"{server.url}/v1/models/mistere:predict"
    for parameters in ({"dialogue_id": refused, "consent": False}, {"dialogue_id": silent}, {}):
        body = {"instances": [{"utterances": [{"text": "A secret."}]}], "parameters": parameters}
        assert httpx.post(url, json=body).status_code == 200
    last = new_id("last")
    server.client.predict_rest([Utterance("Go on.")], dialogue_id=last, consent=True)
    wait_for_kept(store, last, 1)
    assert kept(store, refused) is None and kept(store, silent) is None
    assert not any(b"A secret." in (store.root / key).read_bytes() for key in store.keys("sample"))


def test_a_live_conversation_is_one_dialogue_with_its_recordings(
    server: Server, store: LocalStore, tmp_path: Path
) -> None:
    dialogue_id = new_id("live")
    clips = [clip(0.6, pitch=511), clip(0.7, pitch=512)]
    url = f"{server.url}/v1/models/mistere:predict"
    turns: list[dict[str, Any]] = []
    for data in clips:
        turns.append({"audio": base64.b64encode(data).decode(), "text": "Hello?"})
        body = {"instances": [{"utterances": turns}], "parameters": {"dialogue_id": dialogue_id, "consent": True}}
        assert httpx.post(url, json=body).status_code == 200
        wait_for_kept(store, dialogue_id, len(turns))
        turns[-1] = {"audio_digest": hashlib.sha256(data).hexdigest(), "text": "Hello?"}
    folder, found = wait_for_kept(store, dialogue_id, 2)
    assert [read_recording(store, folder, turn.audio or "") for turn in found.turns] == clips
    vectors = read_vectors(store, folder)
    assert {name: rows.shape for name, rows in vectors.items()} == {"speech": (2, 16), "text": (2, 16)}
    assert all(np.isfinite(rows).all() for rows in vectors.values())
    assert len([key for key in store.keys("sample/dialogues") if folder in key]) == 5
    export_tasks(store, tmp_path / "export", ExportOptions(count=1000))
    names = [task["data"]["dialogue_id"] for task in json.loads((tmp_path / "export" / "tasks.json").read_text())]
    assert f"live-{folder[:20]}" in names
    done = mistere_in_process("traffic", "delete", dialogue_id, "--store", str(store.root))
    assert done.returncode == 0 and f"it is live-{folder[:20]}" in done.stdout, done.stderr
    assert not [key for key in store.keys("sample") if folder in key]
    again = mistere_in_process("traffic", "delete", dialogue_id, "--store", str(store.root))
    assert again.returncode == 0 and "nothing is kept" in again.stdout
    assert "deleted 0 kept dialogues" in mistere_in_process("traffic", "sweep", "--store", str(store.root)).stdout


def test_a_stream_that_is_opened_again_goes_on(server: Server, store: LocalStore) -> None:
    dialogue_id = new_id("stream")
    pitches = (611, 613), (617,)  # a turn each
    for stream_pitches in pitches:
        with opened(server, {"parameters": {"dialogue_id": dialogue_id, "consent": True}}) as stream:
            for pitch in stream_pitches:
                stream.send(voice(0.7, pitch / 4).tobytes() + silence(0.9).tobytes())
                assert json.loads(stream.recv(60))["type"] == "turn"
        wait_for_kept(store, dialogue_id, len(stream_pitches))
    folder, found = wait_for_kept(store, dialogue_id, 3)
    assert [(part.first, part.turns) for part in found.streams] == [(0, 2), (0, 1)]
    assert all(turn.predicted and read_recording(store, folder, turn.audio or "") for turn in found.turns)
    assert np.isfinite(read_vectors(store, folder)["speech"]).all(axis=1).tolist() == [True] * 3


def test_vectors_are_kept_if_they_were_sent(server: Server, store: LocalStore) -> None:
    rows = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    dialogue_id = new_id("vectors")
    digest = server.client.metadata()["properties"]["encoder_digest.text"]
    dialogue = VectorDialogue({"text": rows}, encoder_digest=digest)
    server.client.predict_rest(dialogue, dialogue_id=dialogue_id, consent=True)
    folder, found = wait_for_kept(store, dialogue_id, 3)
    assert found.vectors and not found.is_readable and np.array_equal(read_vectors(store, folder)["text"], rows)


@pytest.mark.parametrize(
    ("parameters", "instances", "sentence"),
    [
        ({"consent": True}, 1, "needs a dialogue_id"),
        ({"consent": True, "dialogue_id": ""}, 1, "needs a dialogue_id"),
        ({"consent": "yes", "dialogue_id": "x"}, 1, "must be true or false"),
        ({"consent": 1, "dialogue_id": "x"}, 1, "must be true or false"),
        ({"consent": None, "dialogue_id": "x"}, 1, "must be true or false"),
        ({"consent": True, "dialogue_id": 7}, 1, "must be a string"),
        ({"dialogue_id": "x" * 257}, 1, "has 257 characters; it may have 256"),
        ({"consent": True, "dialogue_id": "x"}, 2, "has one instance; this one has 2"),
    ],
)
def test_wrong_parameters_are_refused(
    server: Server, parameters: dict[str, Any], instances: int, sentence: str
) -> None:
    body = {"instances": [{"utterances": [{"text": "Hello."}]}] * instances, "parameters": parameters}
    response = httpx.post(f"{server.url}/v1/models/mistere:predict", json=body)
    assert response.status_code == 400 and sentence in response.json()["error"]


def test_hostile_ids_are_hashed(server: Server, store: LocalStore) -> None:
    for dialogue_id in ("../../escape", "/etc/passwd", "a\\b", "\t\r\n", "é" * 256):
        server.client.predict_rest([Utterance("Hello.")], dialogue_id=dialogue_id, consent=True)
        wait_for_kept(store, dialogue_id, 1)
    assert "escape" not in server.log.read_text()
