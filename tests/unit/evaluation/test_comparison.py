"""The comparison page of two models: differences on the same test split only, and no external resources."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import EvaluationReport
from mistere.evaluation.gate_timeline import TIMELINES_FILE, read_timelines
from mistere.metrics.predictions import PREDICTIONS_FILE, Predictions, read_predictions
from mistere.reports.evaluated_model import Evaluated
from mistere.reports.evaluation_tables import unshared_parts, weakest_parts
from pipelines.cli.output.comparison_page import ComparedModel, Pairing, render_comparison, summary
from tests.unit.runs.recorded_run import LABELS, RecordedRun
from tests.unit.runs.test_report_run import HOSTILE, read

FACTS = {"digest": "23a876ad0f58", "commit": "4f2a9c1d7be0", "dataset": "mistere-sample", "made": "25 November 2026"}


@pytest.fixture
def better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ComparedModel:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    return recorded(RecordedRun(tmp_path))


def recorded(run: RecordedRun) -> ComparedModel:
    opened = open_artifact(run.store, EvaluationReport, run.evaluate().digest)
    predictions = read_predictions(opened.file(PREDICTIONS_FILE))
    return ComparedModel(
        "mistere@champion, version 3", FACTS, opened.manifest, predictions, read_timelines(opened.file(TIMELINES_FILE))
    )


def worsened(model: ComparedModel, share: float = 0.3) -> ComparedModel:
    """The same model with some predictions reversed."""
    assert model.predictions is not None
    probabilities = model.predictions.probabilities.copy()
    rows = np.random.default_rng(3).random(len(probabilities)) < share
    probabilities[rows] = probabilities[rows][:, ::-1]
    predictions = Predictions(model.predictions.dialogues, model.predictions.labels, probabilities)
    return replace(model, title="mistere, version 2", predictions=predictions)


def words(html: str) -> str:
    page = read(html)
    assert page.loaded == [] and "<script" not in html.lower()
    return re.sub(r"\s+", " ", page.text)


@pytest.mark.long
def test_comparison_on_one_split_shows_verdict_and_differences(better: ComparedModel) -> None:
    worse = worsened(better)
    seen = words(render_comparison(better, worse))
    assert "mistere@champion, version 3 is better than mistere, version 2: weighted F1 differs by +0." in seen
    assert re.search(r"paired 95 % interval \+0\.\d{3} to \+0\.\d{3}", seen)
    assert "difference, paired" in seen and "only mistere, version 2 is correct" in seen and "Brier score" in seen
    for section in (
        "F1 of each emotion",
        "The mixture and each expert alone",
        "Calibration of the probabilities",
        "Contribution of each expert",
        "Missing modality",
        "Degraded speech or text",
        "Effects of real calls",
        "Parts of the test split",
        "Running costs",
        "Lineage",
        *FACTS.values(),
    ):
        assert section in seen, section
    assert "mistere, version 2 is worse than mistere@champion, version 3" in words(render_comparison(worse, better))


def test_comparison_matches_figures_computed_from_predictions(better: ComparedModel) -> None:
    one, other = better.predictions, worsened(better).predictions
    assert one is not None and other is not None
    pairing = Pairing(one, other)
    changes = pairing.changes()
    assert changes.both + changes.only_one == (one.predicted == one.labels).sum()
    assert changes.both + changes.only_one + changes.only_other + changes.neither == len(one.labels)
    assert changes.only_one > changes.only_other and pairing.brier_difference().high < 0


def test_two_models_are_judged_on_the_parts_that_both_have(better: ComparedModel) -> None:
    """Two models with the same predictions, one of which takes vectors and so has no words and seconds."""

    def part(name: str, value: float) -> dict[str, float]:
        key = f"test.slice.{name}"
        bounds = {".weighted_f1": 0.0, ".weighted_f1.low": -0.05, ".weighted_f1.high": 0.05}
        return {f"{key}{end}": value + add for end, add in bounds.items()} | {f"{key}.support": 200.0}

    both = {"test.weighted_f1": 0.7} | part("modalities.text", 0.5) | part("modalities.speech", 0.72)
    audio = both | part("words.1-3", 0.4) | part("seconds.0-1", 0.41) | part("words.4-8", 0.7)
    one, other = (
        Evaluated(better.evaluation.model_copy(update={"metrics": metrics}), title=title)
        for metrics, title in ((audio, "v1"), (both, "v2"))
    )
    weak = "Clearly weaker than the whole test split (0.700): utterances with text with 0.500 (200 utterances)."
    assert weakest_parts(one, [one, other]) == weakest_parts(other, [one, other]) == weak
    note = "v2 was not measured on every part by words of the utterance, seconds of speech"
    assert unshared_parts([one, other]) == f"{note}; such a part is judged for neither model."
    alone = weakest_parts(one, [one])
    assert alone == weakest_parts(one) and "1 to 3 words with 0.400" in alone and unshared_parts([one]) == ""
    none = replace(other, evaluation=other.evaluation.model_copy(update={"metrics": {"test.weighted_f1": 0.7}}))
    assert weakest_parts(one, [one, none]) == "" and unshared_parts([one, none]).startswith("v2 was not measured")


@pytest.mark.long
def test_comparison_omits_differences_for_different_splits(better: ComparedModel) -> None:
    changed = better.evaluation.model_copy(update={"test_digest": "z" * 64})
    seen = words(render_comparison(better, replace(worsened(better), evaluation=changed)))
    assert "Their test splits differ, so the models are not compared" in seen and "not compared" in seen
    assert "difference, paired" not in seen and "Utterances predicted correctly" not in seen
    assert "is better than" not in seen and "F1 of each emotion" in seen and "zzzzzzzzzzzz" in seen


@pytest.mark.long
def test_comparison_omits_differences_without_predictions(better: ComparedModel) -> None:
    seen = words(render_comparison(better, replace(worsened(better), predictions=None)))
    assert "the predictions of mistere, version 2 are missing" in seen and "difference, paired" not in seen
    other = worsened(better)
    assert other.predictions is not None
    shuffled = replace(other.predictions, dialogues=other.predictions.dialogues[::-1])
    assert "cover different test utterances" in words(render_comparison(better, replace(other, predictions=shuffled)))


@pytest.mark.long
def test_comparison_of_a_model_with_itself_is_zero(better: ComparedModel) -> None:
    seen = words(render_comparison(better, better))
    assert "no difference" in seen and "version 3 (first) is exactly as good as" in seen
    assert "the same in every resample" in seen and "+0.000" not in seen
    named = replace(better, short="v3", digest="d" * 64)
    seen = words(render_comparison(named, named))
    assert "same version" in seen and "version 3 compared with itself" in seen
    assert "Both names stand for mistere@champion, version 3, so there is nothing to compare" in seen
    assert summary(named, named).startswith("Both names stand for mistere@champion, version 3")


@pytest.mark.long
def test_comparison_has_short_names_and_one_legend(better: ComparedModel) -> None:
    other = replace(worsened(better), short="v2", digest="b" * 64, inputs="vectors of text")
    html = render_comparison(replace(better, short="v3", digest="a" * 64, inputs="text"), other)
    seen = words(html)
    assert "Their inputs differ: v3 reads text, and v2 reads vectors of text" in seen
    assert "v3 is better than v2: weighted F1 differs by +0." in seen
    assert "On this page, v3 is mistere@champion, version 3 and v2 is mistere, version 2." in seen
    assert "v3: filled dots" in seen and "v2: hollow dots" in seen and "speech removed" not in seen
    assert seen.count("mistere, version 2") == 3, "the short name is used below the heading"
    assert html.count('<p class="legend"') == 1
    assert summary(better, other).startswith("mistere@champion, version 3 is better than mistere, version 2")


@pytest.mark.long
def test_comparison_of_a_small_change_is_inconclusive(better: ComparedModel) -> None:
    assert better.predictions is not None
    probabilities = better.predictions.probabilities.copy()
    probabilities[:2] = probabilities[:2][:, ::-1]
    other = replace(better, title="other", predictions=replace(better.predictions, probabilities=probabilities))
    assert "is not significant on this test split" in words(render_comparison(better, other))


@pytest.mark.long
def test_comparison_page_renders_old_evaluations_and_escapes_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    run = RecordedRun(tmp_path, labels=[HOSTILE, *LABELS[1:]], sentences=[HOSTILE] * 16)
    model = replace(recorded(run), title=HOSTILE, facts={HOSTILE: HOSTILE})
    bare = {"metrics": {"test.weighted_f1": 0.5}, "runtime": {}}
    old = ComparedModel("old", {}, model.evaluation.model_copy(update=bare))
    html = render_comparison(model, old)
    assert "<script" not in html.lower() and read(html).loaded == []
    assert HOSTILE in read(html).text and "could not be drawn" not in html
    assert "not measured" in html
