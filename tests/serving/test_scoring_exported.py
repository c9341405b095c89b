"""``mistere score`` with an exported model: the bundle's numbers, whatever the windows, and never mixed with those of the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistere.artifacts.io import open_artifact
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import open_store
from mistere.artifacts.onnx_manifest import OnnxModel
from mistere.common.errors import ArtifactError, UsageError
from mistere.data.kinds.audio import Audio
from mistere.model.inference import load_bundle
from mistere.model.onnx.export import export_model
from mistere.scoring.scoring import load_model
from pipelines.cli.commands.export import examples
from pipelines.cli.commands.score import score
from tests.serving.conftest import LABELS
from tests.serving.test_scoring import archive_rows, run_score, turns_of, write_archive

NUMBERS = [f"probability_{label}" for label in LABELS]


def export(bundle: str, target: Path, *, int8: bool = False) -> tuple[str, OnnxModel]:
    root, digest = split_bundle_location(bundle)
    opened = open_artifact(open_store(root), ModelBundle, digest)
    model = load_bundle(bundle, device="cpu")
    made = export_model(model, opened, target, examples(opened.path, model), int8=int8)
    return str(target), made.manifest


@pytest.fixture(scope="module")
def exported(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, OnnxModel]:
    return export(bundle, tmp_path_factory.mktemp("onnx") / "model")


def numbers(rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[row[name] for name in NUMBERS] for row in rows], dtype=float)


def test_the_numbers_are_those_of_the_bundle(
    bundle: str, exported: tuple[str, OnnxModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = archive_rows(4, audio=True)
    rows[3]["text"] = rows[3]["audio"] = None
    data = write_archive(tmp_path / "data", rows)
    exact = turns_of(run_score(data, bundle, tmp_path / "exact"))
    folder = run_score(data, exported[0], tmp_path / "graphs")
    scored = turns_of(folder)
    np.testing.assert_allclose(numbers(scored), numbers(exact), atol=1e-4)
    assert {row["bundle_digest"] for row in scored} == {Path(bundle).name}
    assert f"exported as <code>{exported[1].digest[:12]}</code>" in (folder / "scores.html").read_text()
    # A batch's shape depends on each of its utterances alone, so other windows give the same bytes.
    monkeypatch.setattr(Audio, "rows_per_window", 3)
    again = run_score(data, exported[0], tmp_path / "windows")
    (table,) = (folder / "turns").iterdir()
    assert (again / "turns" / table.name).read_bytes() == table.read_bytes()


def test_results_and_vectors_of_bundle_and_export_are_never_mixed(
    bundle: str, exported: tuple[str, OnnxModel], tmp_path: Path
) -> None:
    data = write_archive(tmp_path / "data", archive_rows(2, audio=True))
    cache = str(tmp_path / "cache")
    run_score(data, exported[0], tmp_path / "graphs", cache=cache)
    before = {path.parent.name for path in Path(cache).rglob("*.safetensors")}
    run_score(data, bundle, tmp_path / "exact", cache=cache)
    after = {path.parent.name for path in Path(cache).rglob("*.safetensors")}
    assert len(before) == 2 and len(after) == 4, "vectors of both encoders, of each model"
    with pytest.raises(
        UsageError, match="holds the scores of the bundle itself, not an exported model: choose another"
    ):
        run_score(data, exported[0], tmp_path / "exact")
    with pytest.raises(
        UsageError, match=rf"holds the scores of the exported model {exported[1].digest[:12]}: choose another"
    ):
        run_score(data, bundle, tmp_path / "graphs")
    with pytest.raises(UsageError, match=r"--int8 is for bundles, and .* is an exported model: leave it out"):
        run_score(data, exported[0], tmp_path / "integers", int8=True)


def test_integers_do_not_mix_what_is_computed_together(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activations of a batch in 8-bit integers have one scale: a dialogue alone, and among others, has the same bytes."""
    folder, _ = export(bundle, tmp_path / "model", int8=True)
    rows = archive_rows(4, audio=True)
    alone = [row for row in rows if row["dialogue_id"] == "call-0002"]
    together = turns_of(run_score(write_archive(tmp_path / "data", rows), folder, tmp_path / "all"))
    single = turns_of(run_score(write_archive(tmp_path / "one", alone), folder, tmp_path / "alone"))
    assert single == [row for row in together if row["dialogue_id"] == "call-0002"]


def test_an_export_needs_no_store(exported: tuple[str, OnnxModel], tmp_path: Path) -> None:
    """An output directory without a run; the vectors are kept beside the scores, and the default folder is named by the export."""
    data = write_archive(tmp_path / "data", archive_rows(2, audio=True))
    score(str(data), exported[0], {"min_calls": 2}, tmp_path / "output")
    (folder,) = (path for path in (tmp_path / "output" / "scores").iterdir() if path.name != "vectors")
    assert exported[1].digest[:8] in folder.name and turns_of(folder)
    assert list((tmp_path / "output" / "scores" / "vectors").rglob("*.safetensors"))
    assert not (tmp_path / "output" / "store").exists()
    with pytest.raises(UsageError, match="gs://elsewhere"):
        score(str(data), exported[0], {"min_calls": 2}, tmp_path / "output", store="gs://elsewhere/a")
    with pytest.raises(ArtifactError, match="was exported again meanwhile; give the same command again"):
        load_model(exported[0], exported="0" * 64)
