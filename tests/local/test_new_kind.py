"""Two new files add a modality: a copy of the code with the docs page's kind and encoder runs from the data to a prediction."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mistere.common.paths import PROJECT_ROOT
from tests.local.workshop import run

pytestmark = pytest.mark.long

PAGE = PROJECT_ROOT / "docs" / "extending" / "modality.md"
BEATS = {"calm": 60, "glad": 90, "cross": 130}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the page's two files."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("mistere", "components", "pipelines"):
        shutil.copytree(PROJECT_ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copyfile(PROJECT_ROOT / name, copy / name)
    blocks = re.findall(r'```python title="(.*?)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for name, content in blocks:
        assert not (copy / name).exists()
        (copy / name).write_text(content, encoding="utf-8")
    return copy


def test_two_files_take_a_new_kind_from_the_data_to_a_prediction(tree: Path, tmp_path: Path) -> None:
    write = f"""
import sys
sys.path[:0] = [{str(tree)!r}, {str(PROJECT_ROOT)!r}]
from dataclasses import replace
from pathlib import Path
from tests.local.workshop import info, rows
from mistere.data.dataset_writer import write_dataset
from mistere import __file__ as package
assert Path(package).is_relative_to({str(tree)!r})
beats = {BEATS!r}
lines = ((s, replace(u, others={{"heart": beats[u.label] + u.turn}})) for s, u in rows(audio=False))
write_dataset(Path({str(tmp_path / "data")!r}), info(modalities={{"heart": "pulse"}}), lines)
"""
    done = subprocess.run([sys.executable, "-c", write], cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    settings = (
        "modalities={speech: {}, text: {}, heart: {source: 'random:beats', projection: 16, epochs: 4, learning_rate: 0.01}}",
    )
    result = run(tmp_path / "output", tmp_path / "data", *settings, "evaluation.robustness=true", root=tree)
    assert result.code == 0, result.text
    bundle = result.stages["register_model"]["outputs"]["bundle"]
    folder = tmp_path / "output" / "store" / "artifacts" / "ModelBundle" / bundle
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["encoders"]) == {"text", "heart"} and "heart" in manifest["experts"]
    assert "test.robustness.heart_pulse_10.loss" in manifest["metrics"]
    code = f"import json, mistere; m = mistere.load({str(folder)!r})\n" + (
        "print(json.dumps(m.predict([{'text': 'hello', 'heart': [72]}, {'heart': [140]}]).modalities))"
    )
    predicted = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert json.loads(predicted.stdout.splitlines()[-1]) == ["text+heart", "heart"], predicted.stderr
