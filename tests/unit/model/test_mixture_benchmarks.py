"""The benchmarks of the mixture run, at the smallest sizes, on embeddings with turns that have no label."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.bench import mixture_quality, published_settings
from tests.bench.reference import baselines
from tests.unit.artifacts.embeddings_folder import write_embeddings


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Dialogues whose second turn is only context; one dialogue of train has no label at all."""
    folder = write_embeddings(tmp_path / "embeddings", dialogues=20)
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    table["label"] = [
        None if turn == 1 or name == "d0" else label
        for turn, name, label in zip(table["turn"], table["dialogue_id"], table["label"], strict=True)
    ]
    pq.write_table(pa.table(table), folder / "utterances.parquet")
    return folder


def test_mixture_quality_scores_the_turns_that_have_a_label(
    embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # it would hold for the other tests too
    monkeypatch.setattr(baselines, "_EPOCHS", 1)
    monkeypatch.setattr(baselines, "_BATCH", 1)  # a batch without any label
    settings = ["--profile", "tiny", "--set", "mixture.epochs=1", "--set", "mixture.gate=learned", "--seeds", "1"]
    output = ["--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr(sys, "argv", ["", "--sets", "meld", "--meld", str(embeddings), *settings, *output])
    mixture_quality.main()
    measured = json.loads((tmp_path / "figures.json").read_text())["meld"]
    assert measured["arms"].keys() == {
        "mixture", "mean_of_experts", "best_expert", "text_only", "bigru_fusion", "bigru_speech", "bigru_text", "late_fusion",
    }  # fmt: skip
    for arm in measured["arms"].values():
        value, low, high = arm["weighted_f1"]
        assert 0 <= low <= value <= high <= 1
    assert 0 <= measured["gate"]["auc"] <= 1 and "AUC of trust" in capsys.readouterr().out


def test_published_settings_compares_each_setting_and_all_together(
    embeddings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published_settings, "SETTINGS", ("gate",))
    monkeypatch.setattr(sys, "argv", ["", str(embeddings), "--profile", "tiny", "--seeds", "1"])
    published_settings.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["tiny", "gate=learned", "all of them"]
