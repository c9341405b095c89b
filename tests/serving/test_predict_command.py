"""``mistere predict`` against a real predictor: its table and its JSON."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from pipelines.cli.commands.predict import predict
from tests.serving.conftest import Server, clip
from tests.serving.test_sample import wait_for_kept


def test_the_answer_as_a_table_and_as_json(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "turn.wav").write_bytes(clip())
    file = tmp_path / "dialogue.json"
    turns = [{"text": "Où? [bold]", "audio": "turn.wav"}, {"text": "Zu Hause."}, {}]
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(turns).encode())  # Windows editors begin UTF-8 with a byte order mark
    predict(str(file), server.url, "mistere", as_json=True)
    document = json.loads(capsys.readouterr().out)
    expected = server.client.predict_rest(
        [type("Turn", (), {"text": turn.get("text"), "audio": clip() if "audio" in turn else None})() for turn in turns]
    )
    assert document["model_version"] == expected.parameters["model_version"]
    assert document["bundle_digest"] == expected.parameters["bundle_digest"]
    utterances = document["utterances"]
    assert [utterance["turn"] for utterance in utterances] == [0, 1, 2]
    assert [utterance["text"] for utterance in utterances] == ["Où? [bold]", "Zu Hause.", None]
    assert [utterance["label"] for utterance in utterances] == expected.predicted
    assert [utterance["modalities_used"] for utterance in utterances] == [["speech", "text"], ["text"], []]
    for name, rows in (("probabilities", expected.probabilities), ("expert_weights", expected.expert_weights)):
        np.testing.assert_allclose([list(each[name].values()) for each in utterances], rows, atol=1e-5)
    assert list(utterances[0]["probabilities"]) == expected.labels
    assert list(utterances[0]["expert_weights"]) == expected.experts

    monkeypatch.setenv("COLUMNS", "200")
    predict(str(file), server.url, "mistere")
    table = capsys.readouterr().out
    columns = re.split(r" {2,}", table.splitlines()[0].strip())
    weights = [f"weight of {expert}" for expert in expected.experts]
    assert columns == ["turn", "emotion", "probability", *weights, "modalities", "transcript"]
    assert "Où? [bold]" in table and f"model version {document['model_version']}" in table


def test_a_dialogue_is_named_and_kept_with_consent(server: Server, bundle: str, tmp_path: Path) -> None:
    (file := tmp_path / "dialogue.json").write_text(json.dumps([{"text": "Keep this."}]))
    with pytest.raises(UsageError, match="--consent needs --dialogue-id"):
        predict(str(file), server.url, "mistere", consent=True)
    identity = f"command-{uuid.uuid4()}"
    predict(str(file), server.url, "mistere", dialogue_id=identity, consent=True)
    assert [turn.text for turn in wait_for_kept(LocalStore(Path(bundle).parents[2]), identity, 1)[1].turns] == [
        "Keep this."
    ]
