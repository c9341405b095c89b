"""The public Python API with a real bundle, endpoint and dataset, and the snippets of the guide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mistere
from mistere.common.errors import DataError, UsageError
from mistere.common.processes.child_environment import child_environment
from mistere.serving.client import DialogueClient, EndpointPrediction
from tests.local.workshop import LABELS as TONES
from tests.local.workshop import make_dataset
from tests.serving.conftest import LABELS, ROOT, Server, Utterance, clip

GUIDE = (ROOT / "docs" / "guides" / "python-api.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def assert_same(one: EndpointPrediction, other: EndpointPrediction) -> None:
    assert one.predicted == other.predicted and one.modalities == other.modalities
    assert one.labels == other.labels and one.experts == other.experts
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(one.expert_weights, other.expert_weights, rtol=0, atol=1e-6)


def test_a_loaded_bundle_predicts_as_its_endpoint(bundle: str, server: Server, dialogue: list[Utterance]) -> None:
    model, endpoint = mistere.load(bundle), mistere.connect(server.url)
    local, remote = model.predict(dialogue, detail=True), endpoint.predict(dialogue, detail=True)
    assert_same(local, remote)
    assert local.expert_probabilities is not None and remote.expert_probabilities is not None
    np.testing.assert_allclose(local.expert_probabilities, remote.expert_probabilities, rtol=0, atol=1e-6)
    assert model.labels == local.labels == LABELS and local.probabilities.shape == (len(dialogue), len(LABELS))
    assert local.parameters["bundle_digest"] == remote.parameters["bundle_digest"] == bundle.rpartition("/")[2]
    assert local.modalities == ["speech+text", "text", "speech", "none"]
    assert model.predict(dialogue).expert_probabilities is None


def test_all_forms_of_utterances_give_the_same_prediction(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "turn.wav").write_bytes(clip())
    monkeypatch.chdir(tmp_path)
    model = mistere.load(Path(bundle))
    forms = [
        ["Hello?", {"text": "Hi.", "audio": "turn.wav"}],
        [{"text": "Hello?"}, {"text": "Hi.", "audio": clip()}],
        [Utterance("Hello?"), Utterance("Hi.", clip())],
    ]
    first, *others = (model.predict(form) for form in forms)
    for other in others:
        assert_same(first, other)


@pytest.mark.parametrize(
    ("dialogue", "message"),
    [
        ([], "a non-empty list of utterances"),
        ("Hello?", "a non-empty list of utterances"),
        ([{"audio": "no such.wav"}], "utterance 0: there is no audio file no such.wav"),
        (["Hi.", {"text": 3}], "utterance 1: text is a string"),
        (["Hi.", {"txt": "Hello."}], "utterance 1: unknown field 'txt'; did you mean 'text'?"),
        ([{"label": "joy"}], "utterance 0: unknown field 'label'; valid names: audio, predict, text."),
        ([{"text": " "}], "has anything this model reads"),
    ],
)
def test_a_malformed_dialogue_is_rejected_in_one_sentence(bundle: str, dialogue: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        mistere.load(bundle).predict(dialogue)  # type: ignore[arg-type]


def test_the_guide_reads_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(tmp_path / "data" / "sample")
    monkeypatch.chdir(tmp_path)
    (snippet,) = (one for one in SNIPPETS if "read_dataset" in one)
    exec(snippet, {})
    assert len(capsys.readouterr().out.splitlines()) == 16


def test_a_dataset_is_read_by_split(tmp_path: Path) -> None:
    dataset = mistere.read_dataset(make_dataset(tmp_path / "tones"))
    assert dataset.info.labels == TONES
    dev = list(dataset.utterances("dev"))
    assert len(dev) == 16 and all(utterance.audio and utterance.text and utterance.label in TONES for utterance in dev)
    assert all(utterance.audio is None for utterance in dataset.utterances("test", modalities=("text",)))
    with pytest.raises(UsageError, match="unknown split 'validation'; valid names: train, dev, test"):
        dataset.utterances("validation")  # type: ignore[arg-type]
    next(dataset.directory.glob("dev-*")).unlink()
    with pytest.raises(DataError, match="has no dev split"):
        dataset.utterances("dev")
    with pytest.raises(mistere.MistereError, match=r"dataset\.yaml is missing"):
        mistere.read_dataset(tmp_path)


def test_a_url_without_a_scheme_is_rejected() -> None:
    with pytest.raises(UsageError, match="starts with http:// or https://"):
        mistere.connect("localhost:8080")
    with pytest.raises(UsageError, match=r"^localhost:8080: the URL of an endpoint starts with http:// or https://\.$"):
        DialogueClient("localhost:8080")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, mistere; assert set(mistere.__all__) <= set(dir(mistere))\n"
        "print(*sorted(m for m in sys.modules if m.split('.')[0] in {'torch', 'numpy', 'pydantic', 'yaml', 'mistere'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["mistere"]
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        _ = mistere.predict  # type: ignore[attr-defined]


@pytest.mark.long
def test_the_examples_of_the_guide_run(bundle: str, server: Server, tmp_path: Path) -> None:
    make_dataset(tmp_path / "data" / "sample")
    (tmp_path / "turn1.wav").write_bytes(clip())
    printed = []
    for snippet in SNIPPETS:
        code = snippet.replace("output/store/artifacts/ModelBundle/DIGEST", bundle)
        code = code.replace("http://127.0.0.1:8080", server.url)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=child_environment() | {"HOME": os.environ.get("HOME", "")},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert len(printed) == 3 and all(label in "".join(LABELS) for label in re.findall(r"'(\w+)'", "".join(printed[:2])))
    assert printed[2].count("\n") == 16
