"""A dataset with turns that are only context, from the training to the endpoint's answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from tests.local.workshop import make_dataset, rows, run


def calls() -> Iterator[tuple[Split, Utterance]]:
    """Every fourth turn is an agent's, whose label counts for nothing; one turn of a customer in each split has no label."""
    for split, row in rows():
        if row.turn == 3:
            yield split, replace(row, role="agent", label="not annotated")
        else:
            yield (
                split,
                replace(
                    row, role="customer", label=None if row.dialogue_id.endswith("-1") and row.turn == 1 else row.label
                ),
            )


@pytest.mark.long
def test_a_run_counts_labelled_turns_only(tmp_path: Path) -> None:
    data, output = make_dataset(tmp_path / "calls", calls(), predict_roles=["customer"]), tmp_path / "output"
    done = run(output, data)
    assert done.code == 0, done.text
    artifacts = output / "store" / "artifacts"
    report = artifacts / "EvaluationReport" / done.stages["evaluate_model"]["outputs"]["report"]
    manifest = json.loads((report / "manifest.json").read_text())
    assert (manifest["utterances"], manifest["context"], manifest["dialogues"]) == (11, 5, 4)
    predictions = pq.read_table(report / "predictions.parquet")
    assert len(predictions) == 11 and set(predictions["turn"].to_pylist()) == {0, 1, 2}
    support = sum(value for name, value in manifest["metrics"].items() if name.startswith("test.support."))
    assert support == 11
    bundle = artifacts / "ModelBundle" / done.stages["register_model"]["outputs"]["bundle"]
    assert "the turns of the role customer" in (bundle / "README.md").read_text()
    assert "its 11 labelled utterances, predicted with 5 further turns as context" in (bundle / "README.md").read_text()
    assert '"predict": false' in (bundle / "example" / "dialogue.json").read_text()
    page = (done.folder / "reports" / "run_report.html").read_text()
    assert '<span class="soft">context</span>' in page and "with 5 turns of context" in page
