"""The missing-modality curve: nested and repeatable removals, and the resulting scores."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mistere.common.progress import Progress
from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.missing_modality import _order, _without, expected_absence, missing_modality_curve
from mistere.metrics.classification import confusion, weighted_f1
from mistere.metrics.missing_curve import CurvePoint, curve_from_metrics, curve_metrics
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogues
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import predict
from mistere.model.mixture.training import TrainedMixture, train_mixture
from mistere.reports.curves import missing_modality_plot
from tests.unit.model.test_moe import toy_config, write_toy

EVALUATION = EvaluationConfig(resamples=200)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedDialogues:
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(toy: EmbeddedDialogues) -> TrainedMixture:
    return train_mixture(toy_config(epochs=6), toy, progress=Progress("train_moe"))


def curve_of(
    model: MixtureOfExperts, data: EmbeddedDialogues, evaluation: EvaluationConfig = EVALUATION
) -> list[CurvePoint]:
    test = data.split("test")
    read, labels = [data.read(dialogue) for dialogue in test], [dialogue.labels for dialogue in test]
    names = [dialogue.dialogue_id for dialogue in test]
    return missing_modality_curve(model, 1.0, read, labels, names, len(data.labels), evaluation)


@pytest.mark.long
def test_curve_starts_at_the_model_score_and_falls(toy: EmbeddedDialogues, trained: TrainedMixture) -> None:
    curve = curve_of(trained.model, toy)
    assert [(point.modality, point.share) for point in curve] == [
        (modality, share) for modality in ("speech", "text") for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    test = toy.split("test")
    answers = predict(trained.model, [toy.read(dialogue) for dialogue in test], 1.0)
    predicted = np.concatenate([answer.probabilities.argmax(1) for answer in answers])
    true = np.concatenate([dialogue.labels for dialogue in test])
    for start, end in ((curve[0], curve[4]), (curve[5], curve[9])):
        assert start.weighted_f1.value == pytest.approx(weighted_f1(confusion(true, predicted, 3)))
        assert start.weighted_f1.low <= start.weighted_f1.value <= start.weighted_f1.high
        assert end.weighted_f1.value < start.weighted_f1.value - 0.03
    assert curve_of(trained.model, toy) == curve


@pytest.mark.long
def test_curve_end_equals_input_without_the_modality(toy: EmbeddedDialogues, trained: TrainedMixture) -> None:
    test = toy.split("test")
    bare = [{"text": toy.read(dialogue)["text"]} for dialogue in test]
    predicted = np.concatenate([answer.probabilities.argmax(1) for answer in predict(trained.model, bare, 1.0)])
    true = np.concatenate([dialogue.labels for dialogue in test])
    wanted = weighted_f1(confusion(true, predicted, 3))
    assert curve_of(trained.model, toy)[4].weighted_f1.value == pytest.approx(wanted)


@pytest.mark.long
def test_single_modality_curve_stops_before_removing_all_inputs(toy: EmbeddedDialogues) -> None:
    alone = toy.only(["text"])
    model = train_mixture(toy_config(epochs=2), alone, progress=Progress("train_moe")).model
    curve = curve_of(model, alone)
    assert [point.share for point in curve] == [0, 0.25, 0.5, 0.75] and {p.modality for p in curve} == {"text"}


def test_removed_rows_are_nested_and_repeatable() -> None:
    draw = np.random.default_rng(0)
    dialogues = [{name: draw.normal(size=(n, 3)).astype(np.float32) for name in ("speech", "text")} for n in (3, 1, 8)]
    dialogues[0]["text"][1] = np.nan
    del dialogues[1]["text"]
    order = _order(dialogues, "text", seed=0)
    assert sorted(order) == [0, 2, *range(4, 12)], "each utterance with text exactly once"
    assert _order(dialogues, "text", seed=0).tolist() == order.tolist() != _order(dialogues, "text", seed=1).tolist()
    before = [{name: rows.copy() for name, rows in dialogue.items()} for dialogue in dialogues]
    previous: set[int] = set()
    for count in (2, 5, 10):
        reduced = _without(dialogues, "text", order[:count])
        texts = [dialogue.get("text", np.full((1, 3), np.nan)) for dialogue in reduced]
        missing = set(np.flatnonzero(np.isnan(np.concatenate(texts)).any(1))) - {1, 3}
        assert len(missing) == count and previous <= missing
        previous = missing
        for one, other in zip(reduced, dialogues, strict=True):
            assert one["speech"] is other["speech"] and all(rows.dtype == np.float32 for rows in one.values())
    for one, other in zip(before, dialogues, strict=True):
        for name, rows in one.items():
            np.testing.assert_array_equal(rows, other[name])


@pytest.mark.long
def test_metrics_hold_the_curve(toy: EmbeddedDialogues, trained: TrainedMixture) -> None:
    curve = curve_of(trained.model, toy)
    metrics = curve_metrics(curve)
    assert metrics["test.missing.speech.25.weighted_f1"] == pytest.approx(curve[1].weighted_f1.value, abs=1e-8)
    assert len(metrics) == 3 * len(curve)
    again = curve_from_metrics(dict(sorted(metrics.items())) | {"test.weighted_f1": 0.5})
    assert [(point.modality, point.share) for point in again] == [(point.modality, point.share) for point in curve]
    for one, other in zip(again, curve, strict=True):
        assert one.weighted_f1.low == pytest.approx(other.weighted_f1.low, abs=1e-8)
        assert one.weighted_f1.high == pytest.approx(other.weighted_f1.high, abs=1e-8)
    assert curve_from_metrics({"test.weighted_f1": 0.5}) == []


def test_curve_plot_names_modalities_and_models(toy: EmbeddedDialogues, trained: TrainedMixture) -> None:
    curve = curve_of(trained.model, toy)
    one = missing_modality_plot({"": curve})
    assert "speech removed" in one and "text removed" in one
    two = missing_modality_plot({"with modality dropout": curve, "without": curve})
    assert "text removed, with modality dropout" in two and "text removed, without" in two


def test_curve_of_a_sample_sized_split_takes_under_a_second(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dimensions = {"speech": 128, "text": 128}
    config = toy_config(hidden=64, fusion_width=128, fusion_blocks=1, attention_width=60)
    model = MixtureOfExperts(config, dimensions, 6).eval()
    draw = np.random.default_rng(0)
    dialogues = [{n: draw.normal(size=(10, d)).astype(np.float32) for n, d in dimensions.items()} for _ in range(35)]
    labels = [draw.integers(0, 6, 10) for _ in dialogues]
    names = [f"d{index}" for index in range(35)]
    missing_modality_curve(model, 1.0, dialogues[:2], labels[:2], names[:2], 6, EvaluationConfig(resamples=100))
    started = time.process_time()
    missing_modality_curve(model, 1.0, dialogues, labels, names, 6, EvaluationConfig())
    assert time.process_time() - started < 1


def test_expected_absence_counts_utterances_without_a_modality(toy: EmbeddedDialogues, trained: TrainedMixture) -> None:
    read = [toy.read(dialogue) for dialogue in toy.split("test")]
    labels = [dialogue.labels for dialogue in toy.split("test")]
    turns = sum(len(dialogue["text"]) for dialogue in read)
    before = expected_absence(trained.model, read, labels)
    lost = round(turns / 4)
    changed = _without(read, "text", _order(read, "text", 0)[:lost])
    after = expected_absence(trained.model, changed, labels)
    assert after["test.absent.text"] - before["test.absent.text"] == pytest.approx(lost / turns)
    assert after["test.absent.speech"] == before["test.absent.speech"]
    assert after["model.modality_dropout"] == trained.model.config.modality_dropout
    context = [
        np.where(np.isnan(one["text"]).any(1), UNLABELLED, own) for one, own in zip(changed, labels, strict=True)
    ]
    assert expected_absence(trained.model, changed, context)["test.absent.text"] == 0
