"""A dataset of precomputed features alone, from their files to a deployed predictor that answers."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import mistere
from mistere.data.dataset import load_info
from mistere.serving.dialogue import DialogueTurn
from tests.local.workshop import LABELS, mistere_in_process, run
from tests.serving.conftest import launch

pytestmark = pytest.mark.long

WIDTHS = {"acoustic": 6, "visual": 5, "lexical": 4}
ENCODER = "{source: 'measured:vector', projection: 16, epochs: 8, learning_rate: 0.01, batch_size: 16}"
MODALITIES = f"modalities={{{', '.join(f'{name}: {ENCODER}' for name in WIDTHS)}}}"


def vector(draw: np.random.Generator, name: str, label: str) -> np.ndarray:
    """Features that tell the label apart, with noise."""
    centre = np.eye(len(LABELS), WIDTHS[name])[LABELS.index(label)]
    return (3 * centre + draw.normal(size=WIDTHS[name])).astype(np.float32)


def write_corpus(folder: Path) -> tuple[Path, dict[str, Path]]:
    """A table without text and audio, and files of features in the formats of the field; some vectors are missing."""
    draw, lines, names = np.random.default_rng(3), ["dialogue_id,turn,label,speaker,split"], []
    for split, dialogues in (("train", 10), ("dev", 4), ("test", 4)):
        for dialogue in range(dialogues):
            for turn in range(4):
                label = LABELS[(dialogue + turn) % 3]
                lines.append(f"{split}-{dialogue},{turn},{label},{split}-{turn % 2},{split}")
                names.append((f"{split}-{dialogue}_{turn}", label, turn))
    table = folder / "corpus.csv"
    table.write_text("\n".join(lines) + "\n")
    frames = {
        name: np.stack([vector(draw, "acoustic", label) for _ in range(3)]) for name, label, turn in names if turn != 1
    }
    shown = np.stack([vector(draw, "visual", label) for _, label, _ in names])
    np.savez(folder / "facet.npz", names=np.array([name for name, _, _ in names]), vectors=shown)
    rows = [f"{name},{','.join(map(str, vector(draw, 'lexical', label)))}" for name, label, turn in names if turn != 2]
    (folder / "glove.csv").write_text("utterance,a,b,c,d\n" + "\n".join(rows) + "\n")
    files = {"acoustic": write_frames(folder, frames), "visual": folder / "facet.npz", "lexical": folder / "glove.csv"}
    return table, files


def write_frames(folder: Path, frames: Mapping[str, np.ndarray]) -> Path:
    """The frames ``[T, D]`` of each utterance, as a computational sequence where h5py is installed, as it is optional."""
    if importlib.util.find_spec("h5py") is None:
        np.savez(folder / "covarep.npz", **frames)
        return folder / "covarep.npz"
    import h5py

    with h5py.File(folder / "covarep.csd", "w") as file:
        for name, rows in frames.items():
            file[f"covarep/data/{name}/features"] = rows
            file[f"covarep/data/{name}/intervals"] = [[second, second + 1] for second in range(len(rows))]
    return folder / "covarep.csd"


def test_features_alone_train_and_answer(tmp_path: Path) -> None:
    table, files = write_corpus(tmp_path)
    options = [part for name, file in files.items() for part in ("--features", f"{name}={file}")]
    data = tmp_path / "data"
    imported = mistere_in_process("data", "import", "table", str(table), str(data), *options)
    assert imported.returncode == 0, imported.stdout + imported.stderr
    assert load_info(data / "dataset.yaml").modalities == dict.fromkeys(WIDTHS, "vector")
    done = run(tmp_path / "output", data, MODALITIES, "mixture.epochs=12")
    assert done.code == 0, done.text
    assert {task for task in done.stages if task.startswith("finetune_encoder")} == {
        f"finetune_encoder-{name}" for name in WIDTHS
    }
    digest = done.stages["register_model"]["outputs"]["bundle"]
    bundle = tmp_path / "output" / "store" / "artifacts" / "ModelBundle" / digest
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["encoders"]) == set(WIDTHS) and set(manifest["experts"]) == {*WIDTHS, "cross_modal"}
    assert manifest["metrics"]["test.weighted_f1"] > 0.4

    draw = np.random.default_rng(9)
    turns = [
        DialogueTurn(others={name: vector(draw, name, label) for name in WIDTHS if (label, name) != ("glad", "visual")})
        for label in LABELS
    ]
    offline = mistere.load(bundle).predict(turns)
    server = launch(["-m", "mistere.predictor"], str(bundle), tmp_path / "server.log")
    try:
        server.client.wait_ready(300)
        for answer in (server.client.predict_rest(turns), server.client.predict_grpc(turns)):
            np.testing.assert_allclose(answer.probabilities, offline.probabilities, atol=1e-5)
            assert [set(used.split("+")) for used in answer.modalities] == [
                set(WIDTHS), {"acoustic", "lexical"}, set(WIDTHS),
            ]  # fmt: skip
        inputs = {one["name"]: one["shape"] for one in server.client.metadata()["inputs"]}
        assert {name: inputs[name][1] for name in WIDTHS} == WIDTHS
    finally:
        assert server.terminate() == 0
