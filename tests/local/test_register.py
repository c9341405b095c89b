"""A training on the user's vectors becomes a version that is served, queried, compared, promoted and rolled back."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.paths import sqlite_url
from mistere.registry.lineage import read_lineage
from mistere.registry.release.champion import read_champion
from mistere.serving.example_dialogue import read_example
from mistere.serving.local_predictor import local_predictor
from mistere.serving.vectors import VectorDialogue
from tests.local.workshop import Run, mistere, mistere_in_process, run
from tests.unit.artifacts.embeddings_folder import write_embeddings

pytestmark = pytest.mark.long
TINY = ("--profile", "tiny", "--set", "evaluation.resamples=200", "--set", "mixture.epochs=8")
ALLOWED = ("--set", "gate.unvalidated_data=pass", "--set", "gate.champion_margin=1")


@dataclass(frozen=True)
class Registered:
    """Two versions of trainings on the same vectors; the first is the champion."""

    work: Path

    def call(self, *arguments: str) -> str:
        done = mistere_in_process(*arguments, "--output", str(self.work / "registry"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.work / "registry" / "store")

    @property
    def champion(self) -> str:
        champion = read_champion(self.store).champion
        assert champion is not None
        return champion.model_version

    def bundle(self, version: str) -> Path:
        rows = json.loads(self.call("models", "--json"))
        return Path(next(row["bundle_location"] for row in rows if row["version"] == version))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Registered:
    work = tmp_path_factory.mktemp("register")
    vectors = write_embeddings(work / "my vectors", ("text", "face"), dialogues=60)
    (vectors / "encoders.json").write_text(json.dumps({"text": "my-encoder-1"}))
    first = mistere(
        "train", "--embeddings", str(vectors), "--output", str(work / "one"), *TINY,
        "--register", "--registry", str(work / "registry"), *ALLOWED[:2], root=tree,
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert "Registered as mistere version 1 (alias challenger)." in first.stdout
    registered = Registered(work)
    assert "the champion and deployed" in registered.call("promote", "1")
    second = mistere(
        "train", "--embeddings", str(vectors), "--output", str(work / "two"), *TINY, "--set", "mixture.seed=1",
        "--set", "seed=1", root=tree,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    return registered


def test_the_gate_holds_what_nobody_validated_and_compares_with_the_champion(registered: Registered) -> None:
    two, output = str(registered.work / "two"), str(registered.work / "registry")
    held = mistere_in_process("register", two, "--output", output, "--set", "gate.champion_margin=1")
    assert held.returncode == 3, held.stderr
    assert "The data was not validated" in held.stdout and "The release gate holds this model." in held.stdout
    shown = registered.call("register", two, *ALLOWED)
    assert re.search(r"Weighted F1 (differs from the champion's by [+-]0\.\d{3}|is exactly the champion's)", shown), (
        shown
    )
    assert "mistere version 2" in shown and "mistere promote mistere/2 --output" in shown
    assert registered.call("register", two, *ALLOWED).count("mistere version 2") == 1  # the same version again
    lineage = read_lineage(registered.store, registered.bundle("2").name)
    assert (
        lineage.reproducible and lineage.embeddings.endswith("my vectors") and set(lineage.encoders) == {"face", "text"}
    )

    assert "report " in registered.call("compare", "1", "2")
    registered.call("promote", "2")
    assert registered.champion == "2"
    registered.call("rollback")
    assert registered.champion == "1"
    again = mistere_in_process("replay", "1", "--output", output)
    assert again.returncode == 1 and "was trained on the vectors in" in again.stderr


def test_the_predictor_answers_vectors_and_refuses_text(registered: Registered, tmp_path: Path) -> None:
    bundle = registered.bundle("1")
    manifest = ModelBundle.model_validate_json((bundle / "manifest.json").read_text())
    assert not manifest.encoders and manifest.vectors["text"].digest == "my-encoder-1"
    assert "`face_embedding` | 8 | not recorded" in (bundle / "README.md").read_text()
    example = read_example(bundle)
    assert example is not None and isinstance(example.dialogue, VectorDialogue)
    (tmp_path / "text.json").write_text('[{"text": "Hello?"}]')
    with local_predictor(str(bundle), "mistere", tmp_path / "log") as (client, wait_ready):
        wait_ready(120)
        for answer in (client.predict_rest(example.dialogue), client.predict_grpc(example.dialogue)):
            np.testing.assert_allclose(answer.probabilities, example.expected, atol=1e-5)
            assert set(answer.experts) >= {"text", "face", "cross_modal"}
        asked = mistere_in_process(
            "predict", "--dialogue", str(bundle / "example" / "dialogue.json"), "--url", client.url, "--json"
        )
        assert asked.returncode == 0, asked.stderr
        document = json.loads(asked.stdout)
        assert document["bundle_digest"] == bundle.name and len(document["utterances"]) == len(example.expected)
        refused = mistere_in_process("predict", "--dialogue", str(tmp_path / "text.json"), "--url", client.url)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert (
            "takes vectors, not text or audio: send text_embedding [n, 8] and face_embedding [n, 8]" in refused.stderr
        )
        rows = [*range(8), *[None] * 8]
        body = {"inputs": [{"name": "face_embedding", "datatype": "FP32", "shape": [2, 8], "data": rows}]}
        url = f"{client.url}/v2/models/mistere/infer"
        assert "must hold numbers only" in httpx.post(url, json=body).json()["error"]
        missing = httpx.post(url, json=body | {"parameters": {"nan_is_missing": True}}).json()
        assert missing["outputs"][-1]["data"] == ["face", "none"]
        metadata = httpx.get(f"{client.url}/v2/models/mistere").json()
        assert [item["name"] for item in metadata["inputs"]] == ["predict", "text_embedding", "face_embedding"]


def test_mlflow_loads_the_version(registered: Registered) -> None:
    import mlflow
    import pandas

    mlflow.set_tracking_uri(sqlite_url(registered.work / "registry" / "mlflow.db"))
    model = mlflow.pyfunc.load_model("models:/mistere/1")
    rows = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    table = pandas.DataFrame({"text_embedding": list(rows), "face_embedding": [rows[0], None]})
    answer = model.predict(table)
    assert answer["modalities_used"].tolist() == ["face+text", "text"]
    assert len(model.predict(model.input_example)) == 2


def test_serve_says_at_once_that_a_training_is_no_bundle(registered: Registered) -> None:
    served = mistere_in_process("serve", str(registered.work / "one"))
    assert served.returncode == 2 and served.stdout == ""
    assert "is the output of `mistere train` and not a bundle: make one with `mistere register" in served.stderr


def test_a_training_on_the_vectors_of_a_run_is_compared_with_its_champion(
    first: Run, data: Path, tree: Path, tmp_path: Path
) -> None:
    output = shutil.copytree(first.output, tmp_path / "output")
    done = mistere(
        "train", "--embeddings", str(output), "--output", str(tmp_path / "one"), *TINY, "--set", "gate.champion_margin=1",
        "--register", "--registry", str(output), root=tree,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("(differs from|is exactly) the champion's", done.stdout) and "passed its validation" in done.stdout
    store = LocalStore(output / "store")
    before = read_champion(store).champion
    assert before is not None
    rows = json.loads(mistere_in_process("models", "--json", "--output", str(output)).stdout)
    bundle = Path(rows[0]["bundle_location"])
    manifest = ModelBundle.model_validate_json((bundle / "manifest.json").read_text())
    fine_tuned = open_artifact(store, ModelBundle, before.bundle_digest).manifest.encoders
    assert {name: made.digest for name, made in manifest.vectors.items()} == {
        name: encoder.identity.digest for name, encoder in fine_tuned.items()
    }
    assert manifest.dvc_digest and "data_profile.json" in manifest.files
    compared = mistere_in_process("compare", "mistere@champion", rows[0]["version"], "--output", str(output))
    assert "Their inputs differ" in compared.stdout and "vectors of speech and text" in compared.stdout, compared
    assert "vectors of speech and text" in (output / "compare.html").read_text()
    for command in (["promote"], ["shadow", "start"]):
        refused = mistere_in_process(*command, rows[0]["version"], "--output", str(output))
        assert refused.returncode == 2 and "takes vectors of speech and text" in refused.stderr, refused
    promoted = mistere_in_process("promote", rows[0]["version"], "--other-inputs", "--output", str(output))
    assert promoted.returncode == 0, promoted.stderr
    later = run(output, data, "mixture.seed=3", "gate.champion_margin=1", root=tree)  # its champion takes vectors
    assert later.code == 0, later.text
