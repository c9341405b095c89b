"""Gate statistics, calibration and late fusion match hand-computed cases and stay within bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.split_metrics import late_fusion, measure
from mistere.metrics.calibration import reliability
from mistere.metrics.expert_gate import collapsed_gate, gate_statistics
from mistere.model.mixture.prediction import DialoguePrediction

EXPERTS = ["speech", "text", "cross_modal"]


def test_gate_statistics_match_a_hand_computed_case() -> None:
    weights = np.array(
        [
            [0.5, 0.25, 0.25],  # all three
            [0.0, 0.2, 0.8],  # no speech
            [0.5, 0.0, 0.5],  # a tie is shared
            [0.0, 0.0, 1.0],  # only one expert present: no choice
        ]
    )
    statistics = gate_statistics(weights, EXPERTS)
    assert statistics.mean == pytest.approx({"speech": 0.25, "text": 0.1125, "cross_modal": 0.6375})
    assert statistics.led == pytest.approx({"speech": 1.5 / 3, "text": 0.0, "cross_modal": 1.5 / 3})
    three = 1.5 * np.log(2) / np.log(3)
    two = -(0.2 * np.log(0.2) + 0.8 * np.log(0.8)) / np.log(2)
    assert statistics.entropy == pytest.approx((three + two + 1.0) / 3)
    assert set(statistics.metrics("test.")) == {
        "test.gate.entropy",
        *(f"test.gate.{name}.{what}" for name in EXPERTS for what in ("mean", "led")),
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 4), st.integers(1, 30), st.floats(0.05, 40), st.integers(0, 2**31))
def test_lead_shares_sum_to_one_and_entropy_is_normalised(count: int, rows: int, spread: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores = np.where(draw.random((rows, count)) < 0.3, -np.inf, draw.normal(size=(rows, count)) * spread)
    scores[:, -1] = 0.0
    weights = np.exp(scores - scores.max(1, keepdims=True)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    statistics = gate_statistics(weights, [f"e{index}" for index in range(count)])
    assert sum(statistics.mean.values()) == pytest.approx(1, abs=1e-5)
    if statistics.led is not None and statistics.entropy is not None:
        assert sum(statistics.led.values()) == pytest.approx(1)
        assert 0 <= statistics.entropy <= 1
    else:
        assert ((weights > 0).sum(1) < 2).all()


def test_equal_weights_have_entropy_one_and_equal_lead_shares() -> None:
    even = np.array([[1 / 3, 1 / 3, 1 / 3], [0.0, 0.5, 0.5]], dtype=np.float32)
    statistics = gate_statistics(even, EXPERTS)
    assert statistics.entropy == pytest.approx(1) and statistics.led == pytest.approx(
        {"speech": 1 / 6, "text": 5 / 12, "cross_modal": 5 / 12}
    )
    nothing = gate_statistics(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), EXPERTS)
    assert (
        nothing.led is None
        and nothing.entropy is None
        and set(nothing.metrics()) == {f"gate.{name}.mean" for name in EXPERTS}
    )


@pytest.mark.parametrize(
    ("experts", "leader", "led", "mean", "expected"),
    [
        (EXPERTS, "text", 0.99, 0.97, "mixture.modalities: [text]"),
        (EXPERTS, "cross_modal", 1.0, 0.95, "cross-modal expert, which leads 100 %"),
        (["text", "cross_modal"], "cross_modal", 0.98, 0.9, "raise mixture.gate_temperature"),
        (["text", "cross_modal"], "text", 0.999, 0.9, "leads 99.9 %"),
        (EXPERTS, "text", 0.97, 0.99, None),
        (EXPERTS, "text", 1.0, 0.89, None),
    ],
)
def test_collapsed_gate_is_described(
    experts: list[str], leader: str, led: float, mean: float, expected: str | None
) -> None:
    metrics = {f"test.gate.{name}.led": 0.0 for name in experts} | {f"test.gate.{name}.mean": 0.0 for name in experts}
    metrics |= {f"test.gate.{leader}.led": led, f"test.gate.{leader}.mean": mean}
    message = collapsed_gate(metrics, experts)
    assert (message is None) == (expected is None)
    if message and expected:
        assert expected in message and message.count(". ") == 0 and message.endswith(".")
        assert ("mixture.modalities" in message) == (leader == "text" and len(experts) > 2)


def test_gate_without_metrics_is_not_reported_as_collapsed() -> None:
    assert collapsed_gate({}, EXPERTS) is None


# Calibration


def test_calibration_bins_match_a_hand_computed_case() -> None:
    probabilities = np.array([[0.95, 0.05], [0.9, 0.1], [0.55, 0.45], [0.0, 1.0]])
    bins = reliability(probabilities, np.array([0, 1, 0, 1]), bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert bins.confidence[9] == pytest.approx(0.95) and bins.accuracy[9] == pytest.approx(2 / 3)
    assert np.isnan(bins.confidence[0])
    assert bins.expected_calibration_error == pytest.approx((0.45 * 1 + (0.95 - 2 / 3) * 3) / 4)


def test_calibrated_probabilities_have_a_small_error() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.ones(4), size=40_000)
    true = (probabilities.cumsum(1) < draw.random((40_000, 1))).sum(1)
    assert reliability(probabilities, true).expected_calibration_error < 0.01
    sure = np.eye(4)[probabilities.argmax(1)]
    wrong = 1 - (probabilities.argmax(1) == true).mean()
    assert reliability(sure, true).expected_calibration_error == pytest.approx(wrong)
    assert reliability(np.zeros((0, 4)), np.zeros(0, dtype=int)).expected_calibration_error == 0


# In the metrics of a test split


def answer(weights: list[list[float]], experts: list[list[list[float]]]) -> DialoguePrediction:
    w, e = np.array(weights), np.array(experts)
    return DialoguePrediction((w[..., None] * e).sum(1), w, e, ["any"] * len(w))


def test_late_fusion_averages_the_present_unimodal_experts() -> None:
    answers = [
        answer(
            [[0.2, 0.2, 0.6], [0.0, 0.5, 0.5]],
            [
                [[0.6, 0.4], [0.1, 0.9], [1.0, 0.0]],  # 0.35 to 0.65, whatever the cross-modal expert says
                [[0.99, 0.01], [0.4, 0.6], [1.0, 0.0]],  # speech is absent: text decides
            ],
        )
    ]
    assert late_fusion(answers).tolist() == [1, 1]
    metrics = measure(answers, np.array([1, 1]), ["d"], ["a", "b"], EXPERTS, EvaluationConfig(resamples=100)).metrics
    assert metrics["test.late_fusion.weighted_f1"] == 1.0 == metrics["test.late_fusion.weighted_f1.low"]
    assert metrics["test.gate.cross_modal.led"] == pytest.approx(0.75)
    assert 0 < metrics["test.gate.entropy"] <= 1 and 0 <= metrics["test.ece"] <= 1


def test_single_modality_has_no_late_fusion() -> None:
    answers = [answer([[0.3, 0.7]], [[[0.6, 0.4], [0.1, 0.9]]])]
    metrics = measure(answers, np.array([1]), ["d"], ["a", "b"], EXPERTS[1:], EvaluationConfig(resamples=100)).metrics
    assert not any("late_fusion" in name for name in metrics) and metrics["test.gate.cross_modal.led"] == 1.0
