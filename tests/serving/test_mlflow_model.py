"""The model behind ``mlflow.pyfunc.load_model``: a table with every modality of the bundle and the mark of context turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import mistere
from components.register_model.mlflow_model import write_mlflow_model
from mistere.artifacts.bundle_reference import BundleReference
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import UsageError
from mistere.predictor.mlflow_model import DialogueTableModel
from tests.serving.conftest import clip, make_vectors_bundle
from tests.serving.test_other_modalities import WIDTH, image

KINDS = {"speech": "audio", "text": "text", "face": "frames", "acoustic": "vector"}
VECTOR = np.linspace(-1, 1, WIDTH, dtype=np.float32)
TABLE = pandas.DataFrame(
    {
        "text": ["Where have you been?", "At home.", None, "And you?"],
        "audio": [clip(0.7), None, None, None],
        "face": [[image(10), image(200)], None, np.array([image(90)], dtype=object), []],
        "acoustic": [VECTOR, list(-VECTOR), VECTOR, None],
        "predict": [True, False, True, True],
    }
)
"""Cells as lists and as arrays, which parquet files give."""


def expected(bundle: str) -> Any:
    rows = [
        {"text": "Where have you been?", "audio": clip(0.7), "face": [image(10), image(200)], "acoustic": VECTOR},
        {"text": "At home.", "acoustic": -VECTOR, "predict": False},
        {"face": [image(90)], "acoustic": VECTOR},
        {"text": "And you?"},
    ]
    return mistere.load(bundle).predict(rows)


def check(answer: pandas.DataFrame, bundle: str) -> None:
    whole = expected(bundle)
    assert answer["label"].tolist() == whole.predicted and answer["label"][1] == ""
    np.testing.assert_allclose(np.stack(answer["probabilities"].tolist()), whole.probabilities, atol=1e-5)
    assert answer["modalities_used"].tolist() == whole.modalities
    assert whole.modalities == ["speech+text+face+acoustic", "text+acoustic", "face+acoustic", "text"]
    assert "text_source" not in answer.columns


def test_a_table_with_every_modality_and_context(bundle_of_four: str) -> None:
    check(DialogueTableModel(mistere.load(bundle_of_four)).predict(TABLE), bundle_of_four)


@pytest.mark.long
def test_mlflow_loads_the_model_and_takes_every_column(
    bundle_of_four: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    root, _, digest = bundle_of_four.rpartition("/artifacts/ModelBundle/")
    write_mlflow_model(tmp_path, open_artifact(LocalStore(Path(root)), ModelBundle, digest).manifest, KINDS)
    BundleReference(bundle_digest=digest, store=root).write(tmp_path)
    model = mlflow.pyfunc.load_model(str(tmp_path))
    columns = {column.name: str(column.type) for column in model.metadata.get_input_schema()}
    assert list(columns) == ["dialogue_id", "turn", "predict", "text", "audio", "face", "acoustic"]
    assert columns["face"] == "Array(binary)" and columns["acoustic"] == "Array(double)"
    check(model.predict(TABLE), bundle_of_four)
    two = pandas.concat([TABLE, TABLE]).assign(dialogue_id=["a"] * 4 + ["b"] * 4, turn=[0, 1, 2, 3] * 2)
    answer = model.predict(two.sample(frac=1, random_state=1))
    check(answer[answer.index.duplicated()].sort_index(), bundle_of_four)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("predict", "no", "row 0 of the table: predict is true or false"),
        ("audio", "turn.wav", "row 0 of the table: audio is the bytes of an audio file, not str"),
        ("text", 3, "row 0 of the table: text is a string, not int"),
        ("face", [b"x"], "The face of utterance 0 cannot be read: frame 0 is no JPEG or PNG image"),
        ("face", "a.png", "The face of utterance 0 must be a list of files"),
        ("acoustic", [1.0, 2.0], "The acoustic of utterance 0 must have 12 numbers; it has 2"),
        ("acoustic", "loud", "The acoustic of utterance 0 must be a list of numbers"),
        ("acoustic", [float("inf")] * WIDTH, "the vector holds NaN or infinity"),
    ],
)
def test_a_bad_value_is_one_sentence(bundle_of_four: str, column: str, value: Any, message: str) -> None:
    table = pandas.DataFrame({"text": ["Well."], column: [value]})
    with pytest.raises(UsageError, match=message):
        DialogueTableModel(mistere.load(bundle_of_four)).predict(table)


def test_a_table_without_a_column_of_the_model_is_refused(bundle_of_four: str) -> None:
    with pytest.raises(UsageError, match="a column text or audio or face or acoustic, or several of them"):
        DialogueTableModel(mistere.load(bundle_of_four)).predict(pandas.DataFrame({"words": ["Well."]}))


def test_vectors_take_the_mark_too(tmp_path: Path) -> None:
    bundle = make_vectors_bundle(tmp_path, {"text": 3, "face": 2}, {})
    model = mistere.load(bundle)
    rows = [{"text_embedding": [1.0, 2, 3], "predict": False}, {"face_embedding": [0.5, 1]}]
    answer = DialogueTableModel(model).predict(pandas.DataFrame(rows))
    whole = model.predict([{"text_embedding": [1.0, 2, 3]}, {"face_embedding": [0.5, 1]}])
    assert answer["label"].tolist() == ["", whole.predicted[1]] == model.predict(rows).predicted
    np.testing.assert_allclose(answer["probabilities"][1], whole.probabilities[1], atol=1e-6)
    assert not any(answer["probabilities"][0]) and not any(answer["expert_weights"][0])
