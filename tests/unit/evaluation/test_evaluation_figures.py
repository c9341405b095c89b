"""What evaluation computes from predictions: contributions, calibration, slices, timelines and the example dialogue."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from components.evaluate_model.raw_utterances import columns_of, keys_of
from mistere.common.errors import ArtifactError
from mistere.config.evaluation import EvaluationConfig
from mistere.data.audio import decode
from mistere.data.conditions import usual_conditions
from mistere.data.dataset import Utterance
from mistere.evaluation.gate_timeline import GateTimeline, liveliest, read_timelines, write_timelines
from mistere.evaluation.split_metrics import Answers, measure, write_predictions
from mistere.metrics.calibration import Calibration, reliability
from mistere.metrics.classification import DialogueBootstrap, Interval, f1_per_class
from mistere.metrics.predictions import read_predictions
from mistere.metrics.robustness import (
    CallFigures,
    LevelFigures,
    ModelFigures,
    RobustnessPoint,
    calls_from_metrics,
    robustness_from_metrics,
    robustness_metrics,
)
from mistere.metrics.slices import binned, most_frequent, plain_name, slice_metrics, slices_from_metrics
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogue
from mistere.model.mixture.prediction import DialoguePrediction
from mistere.serving.example_dialogue import Example, read_example, sendable, write_example

CONFIG = EvaluationConfig(resamples=200)
EXPERTS = ["speech", "text", "cross_modal"]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis; ``-inf`` becomes 0."""
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def mixed(weights: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The mixture's logits ``[N, C]``."""
    return np.asarray((weights[..., None] * logits).sum(1))


def answers_of(scores: np.ndarray, logits: np.ndarray, temperature: float = 1.0) -> Answers:
    """Predictions of a mixture with these gate scores ``[N, E]`` and logits ``[N, E, C]``, in single precision."""
    weights = softmax(scores)
    probabilities = softmax(mixed(weights, logits) / temperature).astype(np.float32)
    names = [f"d{index // 5}" for index in range(len(scores))]
    modalities = ["any"] * len(scores)
    return Answers(probabilities, weights.astype(np.float32), softmax(logits).astype(np.float32), modalities, names)


def as_predictions(answers: Answers) -> tuple[list[DialoguePrediction], list[str]]:
    """The same predictions, with one utterance per dialogue."""
    names = list(dict.fromkeys(answers.dialogues))
    places = [np.flatnonzero(np.array(answers.dialogues) == name) for name in names]
    return [
        DialoguePrediction(answers.probabilities[at], answers.weights[at], answers.by_expert[at], ["any"] * len(at))
        for at in places
    ], names


# Contributions


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_masking_an_expert_renormalises_the_gate(temperature: float) -> None:
    draw = np.random.default_rng(0)
    scores, logits = draw.normal(0, 2, (400, 3)), draw.normal(0, 3, (400, 3, 6))
    scores[:, 0][draw.random(400) < 0.2] = -np.inf
    scores[:, 1][draw.random(400) < 0.2] = -np.inf
    predictions = answers_of(scores, logits, temperature)
    for expert in range(3):
        masked = scores.copy()
        masked[:, expert] = -np.inf
        alone = np.isneginf(masked).all(1)
        masked[alone] = scores[alone]
        np.testing.assert_array_equal(predictions.without(expert), mixed(softmax(masked), logits).argmax(1))


def test_masking_the_only_present_expert_keeps_its_prediction() -> None:
    scores = np.array([[0.0, -np.inf, -np.inf], [0.0, 0.0, 0.0]])
    logits = np.array([[[0, 5], [9, 0], [9, 0]], [[0, 5], [1, 0], [1, 0]]], dtype=float)
    assert answers_of(scores, logits).without(0).tolist() == [1, 0]
    nobody = replace(answers_of(scores, logits), weights=np.zeros((2, 3), np.float32))
    assert nobody.without(1).tolist() == nobody.predicted.tolist()


def test_masking_does_not_modify_the_predictions() -> None:
    draw = np.random.default_rng(1)
    predictions = answers_of(draw.normal(size=(20, 3)), draw.normal(size=(20, 3, 4)))
    weights = predictions.weights.copy()
    predictions.without(1)
    np.testing.assert_array_equal(predictions.weights, weights)


def test_contribution_is_positive_for_the_informative_expert_and_zero_for_a_copy() -> None:
    draw = np.random.default_rng(2)
    n, classes = 300, 4
    true = draw.integers(0, classes, n)
    logits = draw.normal(0, 0.3, (n, 3, classes))
    logits[np.arange(n), 1, true] += 6
    logits[:, 2] = logits[:, 1]
    copied, names = as_predictions(answers_of(np.zeros((n, 3)), logits))
    metrics = measure(copied, true, names, list("abcd"), EXPERTS, CONFIG).metrics
    for name in ("speech", "text", "cross_modal"):
        assert abs(metrics[f"test.contribution.{name}"]) < 0.02, "another expert has the same information"
    logits[:, 2] = draw.normal(0, 0.3, (n, classes))
    alone, names = as_predictions(answers_of(np.zeros((n, 3)), logits))
    metrics = measure(alone, true, names, list("abcd"), EXPERTS, CONFIG).metrics
    assert metrics["test.contribution.text"] > 0.5 and metrics["test.contribution.text.low"] > 0.5
    for name in ("speech", "cross_modal"):
        assert abs(metrics[f"test.contribution.{name}"]) < 0.02
        assert metrics[f"test.contribution.{name}.low"] <= metrics[f"test.contribution.{name}"]
    assert metrics["test.expert.text.weighted_f1"] > 0.95 > metrics["test.expert.speech.weighted_f1"] + 0.4
    assert metrics["test.expert.text.support"] == n


def test_single_expert_score_covers_only_utterances_where_it_is_present() -> None:
    scores = np.zeros((40, 3))
    scores[20:, 0] = -np.inf
    true = np.arange(40) % 2
    logits = np.zeros((40, 3, 2))
    logits[np.arange(40), 0, true] = 5  # speech is right where it is present
    answers, names = as_predictions(answers_of(scores, logits))
    metrics = measure(answers, true, names, ["a", "b"], EXPERTS, CONFIG).metrics
    assert metrics["test.expert.speech.support"] == 20 and metrics["test.expert.speech.weighted_f1"] == 1
    scores[:, 0] = -np.inf
    answers, names = as_predictions(answers_of(scores, logits))
    metrics = measure(answers, true, names, ["a", "b"], EXPERTS, CONFIG).metrics
    assert not any(name.startswith("test.expert.speech") for name in metrics)


def test_each_class_has_an_f1_interval_and_support() -> None:
    draw = np.random.default_rng(3)
    true = draw.choice(3, 200, p=[0.6, 0.35, 0.05])
    logits = draw.normal(size=(200, 3, 3))
    logits[np.arange(200), :, true] += 1.5
    predictions = answers_of(np.zeros((200, 3)), logits)
    answers, names = as_predictions(predictions)
    metrics = measure(answers, true, names, ["many", "some", "few"], EXPERTS, CONFIG).metrics
    again = DialogueBootstrap(predictions.dialogues, 200, CONFIG.seed).estimates(
        f1_per_class, true, predictions.predicted, 3
    )
    for index, (label, wanted) in enumerate(zip(["many", "some", "few"], again, strict=True)):
        low, value, high = (metrics[f"test.f1.{label}{end}"] for end in (".low", "", ".high"))
        assert (value, low, high) == pytest.approx((wanted.value, wanted.low, wanted.high), abs=1e-8)
        assert 0 <= low <= value <= high <= 1
        assert metrics[f"test.support.{label}"] == (true == index).sum()
    few, many = (metrics[f"test.f1.{label}.high"] - metrics[f"test.f1.{label}.low"] for label in ("few", "many"))
    assert few > many


# Calibration


def by_bins(probabilities: np.ndarray, true: np.ndarray, bins: int) -> float:
    """Expected calibration error, bin by bin."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == true
    total = 0.0
    for number in range(bins):
        upper = confidence <= 1 if number == bins - 1 else confidence < (number + 1) / bins
        inside = (confidence >= number / bins) & upper
        if inside.any():
            total += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    return total


def test_calibration_matches_a_loop_implementation() -> None:
    draw = np.random.default_rng(4)
    probabilities, true = draw.dirichlet(np.full(5, 0.6), size=500), draw.integers(0, 5, 500)
    names = [f"d{index // 8}" for index in range(500)]
    bootstrap, calibration = DialogueBootstrap(names, 300, 0), Calibration(probabilities, true)
    brier = calibration.brier_score(bootstrap)
    plain = sum((probabilities[row, label] - (label == true[row])) ** 2 for row in range(500) for label in range(5))
    assert brier.value == pytest.approx(plain / 500)
    assert 0 <= brier.low < brier.value < brier.high <= 2
    error = calibration.expected_error(bootstrap)
    assert error.value == pytest.approx(by_bins(probabilities, true, 15))
    assert error.value == reliability(probabilities, true).expected_calibration_error
    assert 0 <= error.low < error.high <= 1
    for bins in (1, 4, 10):
        wanted = by_bins(probabilities, true, bins)
        assert reliability(probabilities, true, bins).expected_calibration_error == pytest.approx(wanted)


def test_calibration_error_is_computed_per_resample() -> None:
    draw = np.random.default_rng(5)
    probabilities, true = draw.dirichlet(np.ones(3), size=60), draw.integers(0, 3, 60)
    names = [f"d{index // 10}" for index in range(60)]
    chosen = np.random.default_rng(7).integers(0, 6, size=(50, 6))
    rows = [np.concatenate([np.arange(10 * one, 10 * one + 10) for one in resample]) for resample in chosen]
    errors = [reliability(probabilities[at], true[at]).expected_calibration_error for at in rows]
    estimate = Calibration(probabilities, true).expected_error(DialogueBootstrap(names, 50, seed=7))
    low, high = (2 * estimate.value - end for end in np.quantile(errors, [0.975, 0.025]))
    assert (estimate.low, estimate.high) == pytest.approx((max(0, low), max(high, estimate.value)))


def test_calibration_error_lies_within_its_interval() -> None:
    """The percentiles of the resamples of a few dialogues lie above the estimate."""
    mirrored_below = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        probabilities = draw.dirichlet(np.ones(3), size=120)
        true = (probabilities.cumsum(1) > draw.random((120, 1))).argmax(1)  # calibrated: the error is chance alone
        bootstrap = DialogueBootstrap([f"d{index // 10}" for index in range(120)], 200, 0)
        error = Calibration(probabilities, true).expected_error(bootstrap)
        assert 0 <= error.low <= error.value <= error.high <= 1
        mirrored_below += error.high == error.value
    assert mirrored_below, "the case that percentiles leave the estimate out occurs"


def test_brier_score_is_zero_for_confident_correct_and_two_for_confident_wrong() -> None:
    true = np.array([0, 1, 2, 1])
    bootstrap = DialogueBootstrap(["a", "a", "b", "c"], 100, 0)
    assert Calibration(np.eye(3)[true], true).brier_score(bootstrap) == Interval(0, 0, 0)
    assert Calibration(np.eye(3)[(true + 1) % 3], true).brier_score(bootstrap) == Interval(2, 2, 2)


# Slices


@pytest.mark.parametrize(
    ("kind", "number", "part"),
    [
        ("words", 1, "1-3"),
        ("words", 3, "1-3"),
        ("words", 4, "4-8"),
        ("words", 8, "4-8"),
        ("words", 9, "9-16"),
        ("words", 16, "9-16"),
        ("words", 17, "17+"),
        ("words", 900, "17+"),
        ("seconds", 0.0, "0-1"),
        ("seconds", 0.5, "0-1"),
        ("seconds", 1.0, "1-2"),
        ("seconds", 3.999, "2-4"),
        ("seconds", 8, "8+"),
        ("dialogue_turns", 1, "1-5"),
        ("dialogue_turns", 5, "1-5"),
        ("dialogue_turns", 6, "6-10"),
        ("dialogue_turns", 20, "11-20"),
        ("dialogue_turns", 21, "21+"),
    ],
)
def test_numeric_values_are_assigned_to_slices(kind: str, number: float, part: str) -> None:
    assert binned(kind, number) == part


def test_slice_metrics_round_trip_in_order() -> None:
    draw = np.random.default_rng(6)
    n = 200
    true = draw.integers(0, 3, n)
    words = draw.integers(1, 30, n)
    predicted = np.where((words < 4) | (draw.random(n) < 0.8), true, (true + 1) % 3)
    dialogues = [f"d{index // 5}" for index in range(n)]
    membership: dict[str, list[str | None]] = {
        "room": [None if index % 10 == 0 else f"room {index % 2}" for index in range(n)],
        "words": [binned("words", number) for number in words],
        "seconds": [binned("seconds", number / 3) for number in words],
        "modalities": ["speech+text" if index % 3 else "text" for index in range(n)],
        "accent": ["none"] * n,
        "nobody": [None] * n,
    }
    metrics = slice_metrics(membership, true, predicted, dialogues, 3, CONFIG)
    points = slices_from_metrics(dict(sorted(metrics.items(), reverse=True)) | {"test.weighted_f1": 0.5})
    assert [(point.kind, point.value) for point in points] == [
        ("modalities", "speech+text"),
        ("modalities", "text"),
        *(("words", value) for value in ("1-3", "4-8", "9-16", "17+")),
        *(("seconds", value) for value in ("0-1", "1-2", "2-4", "4-8", "8+")),
        ("accent", "none"),
        ("room", "room 0"),
        ("room", "room 1"),
    ]
    assert len(metrics) == 5 * len(points)
    for point in points:
        inside = np.array([value == point.value for value in membership[point.kind]])
        assert point.utterances == inside.sum()
        names = [name for name, selected in zip(dialogues, inside, strict=True) if selected]
        wanted = DialogueBootstrap(names, 200, CONFIG.seed).weighted_f1(true[inside], predicted[inside], 3)
        actual = point.weighted_f1
        assert (actual.value, actual.low, actual.high) == pytest.approx(
            (wanted.value, wanted.low, wanted.high), abs=1e-8
        )
    assert {point.value: point.weighted_f1.value for point in points}["1-3"] == 1
    assert slices_from_metrics({"test.weighted_f1": 0.5}) == []


def test_rarest_values_are_grouped() -> None:
    values = [f"v{number}" for number in range(25) for _ in range(25 - number)]
    grouped = most_frequent(values)
    assert len(set(grouped)) == 21 and grouped.count("other") == sum(range(1, 6))
    assert grouped[0] == "v0" and len(grouped) == len(values)
    assert most_frequent(["a", "b"]) == ["a", "b"]


def test_slice_value_becomes_a_valid_metric_name_part() -> None:
    assert plain_name("a.b, c+d") == "a_b_ c_d" and plain_name("  ") == "_" and plain_name(3) == "3"
    assert len(plain_name("x" * 200)) == 60 and plain_name("Zoë") == "Zoë"


class Columns:
    """Fake reader of the dataset's columns."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def has_column(self, split: str, name: str) -> bool:
        return any(name in row for row in self._rows)

    def columns(self, split: str, names: list[str]) -> list[dict[str, Any]]:
        assert split == "test" and names[:2] == ["dialogue_id", "turn"]
        return self._rows


def test_dataset_columns_become_slices() -> None:
    rooms = [f"room {number}" for number in range(22) for _ in range(22 - number)]
    rows = [{"dialogue_id": f"d{index}", "turn": 0, "a.room": room} for index, room in enumerate(rooms)]
    keys = [*((row["dialogue_id"], 0) for row in rows), ("unknown", 0)]
    rows[0]["a.room"] = None
    columns = columns_of(Columns(rows), ["a.room"], keys)  # type: ignore[arg-type]
    assert list(columns) == ["a_room"]
    values = columns["a_room"]
    assert values[0] is None and values[-1] is None and values[1] == "room 0"
    assert values.count("other") == 3 and len({value for value in values if value}) == 21
    assert columns_of(Columns(rows), [], keys) == {}  # type: ignore[arg-type]


def test_labelled_turns_keep_their_numbers() -> None:
    labels = {"a": [1, UNLABELLED, 0], "b": [UNLABELLED, 2]}
    dialogues = [EmbeddedDialogue(name, slice(0, len(own)), np.array(own)) for name, own in labels.items()]
    assert keys_of(dialogues) == [("a", 0), ("a", 2), ("b", 1)]


def test_context_turns_have_no_row_and_no_emotion(tmp_path: Path) -> None:
    labels = [np.array([1, UNLABELLED, 0]), np.array([UNLABELLED])]
    draw = np.random.default_rng(0)
    answers = [
        DialoguePrediction(
            draw.dirichlet([1, 1], len(own)), draw.dirichlet([1, 1], len(own)), draw.dirichlet([1, 1], (len(own), 2)),
            ["text"] * len(own),
        )
        for own in labels
    ]  # fmt: skip
    write_predictions(tmp_path / "predictions.parquet", answers, labels, ["a", "b"])
    read = read_predictions(tmp_path / "predictions.parquet")
    assert read.dialogues == ["a", "a"] and read.labels.tolist() == [1, 0]
    np.testing.assert_allclose(read.probabilities, answers[0].probabilities[[0, 2]], rtol=1e-6)
    assert pq.read_table(tmp_path / "predictions.parquet")["turn"].to_pylist() == [0, 2]
    timeline = next(one for one in liveliest(["a", "b"], answers, labels, ["joy", "neutral"]) if one.name == "a")
    assert timeline.true == ["neutral", "", "joy"] and timeline.predicted[1] == "" and timeline.predicted[0]


# Robustness


def test_robustness_metrics_are_read_in_condition_order() -> None:
    points = [
        RobustnessPoint(name, Interval(0.5 + number / 100, 0.4, 0.6), Interval(number / 100, -0.01, 0.1))
        for number, name in enumerate(usual_conditions())
    ]
    metrics = robustness_metrics(Interval(0.6, 0.55, 0.65), points[::-1])
    assert metrics["test.robustness.clean.weighted_f1.low"] == 0.55
    assert len(metrics) == 3 + 6 * len(points)
    order = list(usual_conditions())
    assert robustness_from_metrics(metrics, order) == points
    assert [one.condition for one in robustness_from_metrics(metrics)] == order[::-1]
    assert robustness_from_metrics({"test.weighted_f1": 0.5}) == []
    part = robustness_metrics(None, points[2:4])
    assert robustness_from_metrics(part, order) == points[2:4] and not any("clean" in name for name in part)


def test_figures_of_real_calls_are_read_back_from_the_metrics() -> None:
    def figures(at: float, loss: Interval | None = None) -> ModelFigures:
        return ModelFigures(Interval(at, at - 0.1, at + 0.1), Interval(0.1, 0.05, 0.2), loss)

    level = LevelFigures(
        40, figures(0.5, Interval(0.1, 0.0, 0.2)), figures(0.6, Interval(0.05, 0.0, 0.1)), Interval(-0.1, -0.2, 0.0)
    )
    measured = CallFigures(
        LevelFigures(42, figures(0.6)), {"babble_0db": level, "codec_gsm": replace(level, other=None)}
    )
    metrics = measured.metrics()
    assert calls_from_metrics(metrics) == measured
    assert metrics["champion.calls.babble_0db.weighted_f1.low"] == 0.5
    older = {name: value for name, value in metrics.items() if ".turns" not in name and "champion" not in name}
    read = calls_from_metrics(older)
    assert read is not None and read.clean.turns == 0 and read.levels["babble_0db"].other is None
    assert calls_from_metrics({"test.weighted_f1": 0.5}) is None


# Timelines


def moving(turns: int, swing: float) -> DialoguePrediction:
    """A dialogue in which the gate weights alternate."""
    speech = 0.5 + swing * np.where(np.arange(turns) % 2, 1, -1)
    weights = np.stack([speech, 1 - speech], 1).astype(np.float32)
    probabilities = np.tile(np.array([0.7, 0.3], np.float32), (turns, 1))
    return DialoguePrediction(probabilities, weights, np.zeros((turns, 2, 2), np.float32), ["speech"] * turns)


def chosen(lengths: list[int], swings: list[float], count: int = 2) -> list[GateTimeline]:
    """The dialogues selected for the report."""
    answers = [moving(turns, swing) for turns, swing in zip(lengths, swings, strict=True)]
    names = [f"d{index}" for index in range(len(lengths))]
    return liveliest(names, answers, [np.ones(turns, int) for turns in lengths], ["a", "b"], count)


def test_dialogues_with_the_largest_gate_changes_are_selected() -> None:
    selected = chosen([6, 6, 6, 6], [0.1, 0.4, 0.0, 0.2])
    assert [timeline.name for timeline in selected] == ["d1", "d3"]
    assert selected[0].true == ["b"] * 6 and selected[0].predicted == ["a"] * 6 and selected[0].turns == list(range(6))
    assert selected[0].weights.shape == (6, 2) and selected[0].texts == []
    assert [timeline.name for timeline in chosen([2, 6, 40], [0.4, 0.1, 0.4])] == ["d1"], "a readable length"
    long = chosen([40, 2], [0.3, 0.1], count=1)
    assert long[0].name == "d0" and len(long[0].turns) == 16 == len(long[0].weights)
    assert chosen([], []) == []


def test_timelines_round_trip_with_truncated_texts(tmp_path: Path) -> None:
    path = tmp_path / "timelines.json"
    plain = chosen([5, 6], [0.123456, 0.2])
    truncated = [
        timeline.with_texts({0: "  so \n it goes ", 1: "x" * 500, 2: None, 3: "y" * 240}) for timeline in plain
    ]
    assert truncated[0].texts[0] == "so it goes" and truncated[0].texts[2] == "" == truncated[0].texts[4]
    assert (
        len(truncated[0].texts[1]) == 240
        and truncated[0].texts[1].endswith("x…")
        and truncated[0].texts[3] == "y" * 240
    )
    write_timelines(path, truncated)
    assert "…" in path.read_text(encoding="utf-8")
    restored = read_timelines(path)
    for one, other in zip(restored, truncated, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)
        assert replace(one, weights=other.weights) == other
    write_timelines(path, [])
    assert read_timelines(path) == []


@pytest.mark.parametrize("wrong", ["no json", "3", "{}x", '[{"name": "d"}]', '[{"weights": []}]', '{"a": 1}', "[[]]"])
def test_invalid_timelines_file_is_reported(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "timelines.json"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(ValueError):
        read_timelines(path)


# Example dialogue


def recorded(seconds: float = 0.2, form: str = "WAV", rate: int = 8000, channels: int = 1) -> bytes:
    """A tone as an encoded audio file."""
    wave = 0.3 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * rate)) / rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.repeat(wave[:, None], channels, 1), rate, format=form)
    return buffer.getvalue()


def utterance(turn: int, text: str | None = "well", audio: bytes | None = None) -> Utterance:
    """One utterance of a dialogue."""
    return Utterance(dialogue_id="d", turn=turn, label="joy", text=text, audio=audio, speaker="ann")


def test_context_of_an_example_is_sent_as_context(tmp_path: Path) -> None:
    dialogue = [replace(utterance(0, "How can I help?"), label=None), utterance(1, "I am furious.")]
    write_example(tmp_path, Example(dialogue, np.full((2, 3), 1 / 3, np.float32)))
    example = read_example(tmp_path)
    assert example is not None and [turn.predict for turn in example.turns] == [False, True]
    assert example.expected.sum(1).tolist() == pytest.approx([0, 1])


def test_example_dialogue_round_trips(tmp_path: Path) -> None:
    dialogue = [
        utterance(0, "Zoë!", recorded()),
        utterance(1, None, recorded(form="FLAC")),
        utterance(2, "no sound"),
        utterance(3, None, recorded(form="OGG")),
        utterance(4, None, None),
    ]
    expected = np.random.default_rng(0).dirichlet(np.ones(7), size=5).astype(np.float32)
    write_example(tmp_path, Example(dialogue, expected))
    example = read_example(tmp_path)
    assert example is not None
    assert [(one.turn, one.text, one.audio) for one in example.dialogue] == [
        (one.turn, one.text, one.audio) for one in dialogue
    ]
    np.testing.assert_array_equal(example.expected, expected)
    assert {path.name for path in (tmp_path / "example").iterdir()} == {
        "dialogue.json",
        "expected.json",
        "0.wav",
        "1.flac",
        "3.ogg",
    }
    assert not any(one.label or one.speaker for one in example.dialogue), "clients send neither labels nor speakers"


def test_missing_example_dialogue_reads_as_none(tmp_path: Path) -> None:
    assert read_example(tmp_path) is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dialogue.json", "[{"),
        ("dialogue.json", "null"),
        ("dialogue.json", '{"text": "a"}'),
        ("dialogue.json", '["a"]'),
        ("dialogue.json", '[{"audio": "elsewhere.wav"}]'),
        ("dialogue.json", '[{"audio": 3}]'),
        ("expected.json", "{}"),
        ("expected.json", "[0.5]"),
        ("expected.json", '{"probabilities": [[0.5, 0.5], [1.0]]}'),
        ("expected.json", '{"probabilities": [["much", "little"]]}'),
        ("expected.json", None),
    ],
)
def test_damaged_example_dialogue_is_reported(tmp_path: Path, file: str, content: str | None) -> None:
    write_example(tmp_path, Example([utterance(0, audio=recorded())], np.full((1, 2), 0.5, np.float32)))
    path = tmp_path / "example" / file
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match="example"):
        read_example(tmp_path)


def test_audio_accepted_by_the_endpoint_is_sent_unchanged() -> None:
    dialogue = [utterance(0, audio=recorded(form=form)) for form in ("WAV", "FLAC", "OGG")]
    dialogue += [utterance(3), utterance(4, audio=recorded(channels=2))]
    assert sendable(dialogue) == dialogue
    assert sendable([utterance(0)] * 128) is not None


@pytest.mark.parametrize("audio", [recorded(form="MP3", rate=16000), recorded(form="AIFF"), recorded(channels=4)])
def test_audio_in_another_codec_is_reencoded(tmp_path: Path, audio: bytes) -> None:
    dialogue = sendable([utterance(0, audio=audio), utterance(1)])
    assert dialogue is not None and dialogue[0].audio is not None and dialogue[0].audio[:4] == b"fLaC"
    (before, rate), (after, rate_now) = decode(audio), decode(dialogue[0].audio)
    assert rate == rate_now
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert replace(dialogue[0], audio=audio) == utterance(0, audio=audio)
    write_example(tmp_path, Example(dialogue, np.full((2, 2), 0.5, np.float32)))
    assert (tmp_path / "example" / "0.flac").read_bytes() == dialogue[0].audio


def test_dialogue_over_an_endpoint_limit_is_not_sent() -> None:
    assert sendable([utterance(turn) for turn in range(129)]) is None
    assert sendable([utterance(0, audio=recorded(30.0))]) is not None
    assert sendable([utterance(0), utterance(1, audio=recorded(30.01))]) is None
    assert sendable([utterance(0, audio=b"RIFF and nothing more")]) is None
    heavy = recorded(29.0, rate=48000)
    assert sendable([utterance(0, audio=heavy)]) is not None
    assert sendable([utterance(turn, audio=heavy) for turn in range(3)]) is None
    long = recorded(30.0, form="FLAC", rate=1000)
    assert sendable([utterance(turn, audio=long) for turn in range(20)]) is not None
    assert sendable([utterance(turn, audio=long) for turn in range(21)]) is None
    assert sendable([utterance(turn, "four" * 16384) for turn in range(2)]) is not None
    assert sendable([utterance(0, "four" * 32768), utterance(1, "x")]) is None
    assert json.dumps([one.text for one in sendable([utterance(0, "")]) or []]) == '[""]'
