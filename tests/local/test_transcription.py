"""The pipeline with utterances that have audio and no text: transcribed once, in the slices, in the bundle and at the endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from mistere.model.inference import load_bundle
from tests.local.workshop import make_dataset, rows, run

pytestmark = pytest.mark.long
ON = ("data.transcription.source=random:whisper", "data.transcription.max_tokens=3")


def half_without_text() -> Iterator[tuple[Split, Utterance]]:
    for split, utterance in rows():
        yield split, replace(utterance, text=None) if utterance.turn % 2 else utterance


def test_a_run_transcribes_once_and_deploys_a_model_that_transcribes(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "tones", half_without_text())
    without = run(tmp_path / "output", data)
    assert without.code == 0, without.text
    assert "transcribe" not in without.stages
    first = run(tmp_path / "output", data, *ON)
    assert first.code == 0, first.text
    assert first.stages["transcribe"]["status"] == "done"
    store = first.output / "store"
    report = store / "artifacts" / "EvaluationReport" / first.stages["evaluate_model"]["outputs"]["report"]
    metrics = json.loads((report / "metrics.json").read_text())
    assert {name for name in metrics if name.startswith("test.slice.text_source.")} >= {
        "test.slice.text_source.asr.weighted_f1",
        "test.slice.text_source.human.weighted_f1",
    }
    digest = first.stages["register_model"]["outputs"]["bundle"]
    model = load_bundle(str(store / "artifacts" / "ModelBundle" / digest))
    assert model.bundle.transcription is not None and model.transcriber is not None
    again = run(tmp_path / "output", data, *ON)
    assert again.code == 0 and again.stages["transcribe"]["status"] == "reused"
    off = run(tmp_path / "output", data)  # finds the steps of the first run
    assert off.code == 0 and "transcribe" not in off.stages
    assert off.ran.isdisjoint({"finetune_encoder-speech", "finetune_encoder-text", "train_moe"})


def test_bad_settings_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    silent = make_dataset(tmp_path / "silent", rows(audio=False))
    refused = run(tmp_path / "a", silent, *ON)
    assert refused.code == 2 and "the dataset tones has no audio to transcribe" in " ".join(refused.text.split())
    czech = make_dataset(tmp_path / "czech", language="cs")
    refused = run(tmp_path / "b", czech, "data.transcription.source=random:whisper_english")
    assert refused.code == 2 and "transcribes English only" in " ".join(refused.text.split())
