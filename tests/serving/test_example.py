"""The example dialogue of a bundle, by ``evaluation.example``, as the smoke test sends it to a real predictor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.evaluate_model.example import chosen_example
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.model.dialogue_model import EmotionModel
from mistere.model.inference import load_bundle
from mistere.serving.example_check import ExampleCheck
from mistere.serving.example_dialogue import read_example, write_example
from mistere.serving.made_up_dialogue import made_up_dialogue, made_up_vectors
from tests.serving.conftest import Server

Write = Callable[..., Any]


@pytest.fixture(scope="module")
def model(bundle: str) -> EmotionModel:
    return load_bundle(bundle)


@pytest.fixture
def spoken(dialogue: list[Any]) -> list[Utterance]:
    """The session's dialogue, as the test split of a dataset has it."""
    return [Utterance("call", turn, "joy", text=one.text, audio=one.audio) for turn, one in enumerate(dialogue)]


@pytest.fixture
def write(model: EmotionModel, spoken: list[Utterance], tmp_path: Path) -> Write:
    """Writes the example of a choice, for a dataset that is synthetic or not, and reads it back."""
    probabilities = {"call": model.predict([spoken])[0].probabilities}

    def write_it(choice: str, *, synthetic: bool = False, sendable: bool = True) -> Any:
        data: Any = SimpleNamespace(synthetic=synthetic)
        test = spoken if sendable else []
        example = chosen_example(choice, data, test, probabilities, lambda: model)
        if example is not None:
            write_example(tmp_path, example)
        return read_example(tmp_path)

    return write_it


@pytest.mark.parametrize(
    ("choice", "synthetic", "sendable", "is_test"),
    [
        ("test", False, True, True),
        ("auto", True, True, True),
        ("auto", False, True, False),
        ("synthetic", True, True, False),
        ("test", True, False, False),
    ],
)
def test_a_real_dialogue_travels_only_if_asked_for(
    write: Write, spoken: list[Utterance], choice: str, synthetic: bool, sendable: bool, is_test: bool
) -> None:
    example = write(choice, synthetic=synthetic, sendable=sendable)
    texts = [turn.text for turn in example.turns]
    assert (texts == [one.text for one in spoken]) == is_test
    assert is_test or texts == [one.text for one in made_up_dialogue({"text": "text"})]


def checked(bundle: str, folder: Path) -> ExampleCheck:
    digest = Path(bundle).name
    manifest = ModelBundle.model_validate_json((Path(bundle) / "manifest.json").read_text())
    assert manifest.digest == digest
    return ExampleCheck.of(ArtifactHandle(folder, manifest), DeploymentConfig(mode="local"))


def test_the_smoke_test_compares_a_made_up_dialogue(write: Write, bundle: str, server: Server, tmp_path: Path) -> None:
    assert write("synthetic") is not None
    sentence = checked(bundle, tmp_path).run(server.client)
    assert "example dialogue of 3 utterances by REST and gRPC; largest difference" in sentence


def test_without_an_example_the_answer_must_only_be_well_formed(
    write: Write, bundle: str, server: Server, tmp_path: Path
) -> None:
    assert write("none") is None and not (tmp_path / "example").exists()
    check = checked(bundle, tmp_path)
    sentence = check.run(server.client)
    assert "made-up dialogue of 3 utterances by REST and gRPC with probabilities" in sentence
    answer: Any = SimpleNamespace(probabilities=np.full_like(check.example.expected, 0.9), parameters={})
    with pytest.raises(MistereError, match="answered no probabilities of the form"):
        check._require_probabilities("REST", answer)


def test_the_made_up_dialogue_is_the_same_and_each_of_its_cells_can_be_used() -> None:
    kinds = {"speech": "audio", "text": "text", "face": "frames", "acoustic": "vector"}
    first, again = (made_up_dialogue(kinds, {"acoustic": 5}) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one.text, one.audio, one.others["face"]) == (other.text, other.audio, other.others["face"])
        assert not kind_of("audio").problem(one.audio, thorough=True)
        assert not kind_of("frames").problem(one.others["face"], thorough=True)
        assert one.others["acoustic"].shape == (5,)
    assert made_up_dialogue({"acoustic": "vector"}) == []
    assert {name: rows.shape for name, rows in made_up_vectors({"a": 4}).items()} == {"a": (3, 4)}
