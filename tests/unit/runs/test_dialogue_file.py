"""``mistere predict``: a dialogue file that cannot be used is one sentence that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistere.common.errors import UsageError
from pipelines.cli.commands.predict import predict


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "nosuch",
            None,
            "there is no dialogue file .*nosuch: name a JSON file .*, such as BUNDLE/example/dialogue.json",
        ),
        ("", None, "is a folder: name a JSON file of utterances in it, such as example/dialogue.json"),
        ("a.json/b", None, "a.json/b cannot be read .not a directory.: check the path and its permissions"),
        ("b.json", "text", "b.json is not JSON: write a list like"),
        ("b.json", json.dumps([{"text": 1}]), "are strings: correct those that are not"),
        (
            "b.json",
            json.dumps([{"audio": "no.wav"}]),
            "utterance 0: there is no audio file .*/no.wav: correct its path",
        ),
        (
            "b.json",
            json.dumps([{"face": ["no.png"]}]),
            "utterance 0: there is no face file .*/no.png: correct its path",
        ),
    ],
)
def test_the_sentence_says_what_to_do(tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
    (tmp_path / "a.json").write_text("[]")
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=sentence):
        predict(str(tmp_path / name), "http://127.0.0.1:9", "mistere")
