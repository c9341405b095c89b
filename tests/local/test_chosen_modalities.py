"""A run with other modalities than speech and text: one of them alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.local.workshop import make_dataset, rows, run


@pytest.mark.long
def test_a_run_of_text_alone_deploys_a_model_that_reads_text(tmp_path: Path) -> None:
    data, output = make_dataset(tmp_path / "tones", rows()), tmp_path / "output"
    done = run(output, data, "modalities=[text]")
    assert done.code == 0, done.text
    assert {task for task in done.stages if task.startswith("finetune_encoder")} == {"finetune_encoder-text"}
    bundle = done.stages["register_model"]["outputs"]["bundle"]
    manifest = json.loads((output / "store" / "artifacts" / "ModelBundle" / bundle / "manifest.json").read_text())
    assert set(manifest["encoders"]) == {"text"} and "speech" not in manifest["experts"]
    again = run(output, data, "modalities=[text]")
    assert again.code == 0 and "finetune_encoder-text" not in again.ran, again.text
