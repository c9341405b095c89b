"""The figures on what the gate's weights say match hand-computed cases and a count over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.split_metrics import measure
from mistere.metrics.classification import DialogueBootstrap
from mistere.metrics.expert_gate import evenness_words
from mistere.metrics.gate_trust import GateTrust, trust_sentence
from mistere.model.mixture.prediction import DialoguePrediction

EXPERTS = ["speech", "text", "cross_modal"]
RIGHT, WRONG = [0.7, 0.3], [0.2, 0.8]
"""Probabilities of an expert where the true class is 0; the wrong one is more confident."""

WEIGHTS = np.array(
    [
        [0.6, 0.3, 0.1],  # the right speech expert leads
        [0.2, 0.5, 0.3],  # the wrong text expert leads
        [0.0, 0.5, 0.5],  # no speech; a tie of a right and a wrong expert
        [0.4, 0.4, 0.2],  # all right: no choice
        [0.0, 0.0, 1.0],  # one expert only: no choice
    ]
)
CORRECT = [[1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 0]]
BY_EXPERT = np.array([[RIGHT if right else WRONG for right in row] for row in CORRECT])
BY_EXPERT[2, 0] = 0.5  # an absent expert is uniform; its class 0 would be "right"
TRUE = np.zeros(5, dtype=np.int64)


def answers() -> list[DialoguePrediction]:
    """A dialogue for each utterance."""
    mixed = (WEIGHTS[..., None] * BY_EXPERT).sum(1)
    return [
        DialoguePrediction(mixed[at : at + 1], WEIGHTS[at : at + 1], BY_EXPERT[at : at + 1], ["any"])
        for at in range(len(WEIGHTS))
    ]


def test_trust_matches_a_hand_computed_case() -> None:
    trust = GateTrust(WEIGHTS, BY_EXPERT, TRUE)
    assert trust.differing.tolist() == [True, True, True, False, False]
    # Pairs: .6>.3, .6>.1; .2<.5, .3<.5; .5=.5
    assert trust.pooled_auc().value == pytest.approx((2 + 0 + 0.5) / 5)
    shares = {name: share.value for name, share in trust.right_shares().items()}
    assert shares["leader"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert shares["average"] == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)
    assert shares["most_confident"] == 0, "a wrong expert is surer in each of these utterances"
    # Text is right with .5 and .4, wrong with .3 and .5.
    assert trust.expert_auc(1) == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert trust.expert_confidence_auc(1) == 0
    assert np.isnan(trust.expert_auc(0)), "speech is right wherever it is present"


def test_expert_auc_matches_a_count_over_all_pairs() -> None:
    draw = np.random.default_rng(0)
    weights = np.round(draw.dirichlet(np.ones(3), 200), 1)
    by_expert = draw.dirichlet(np.ones(4), (200, 3))
    true = draw.integers(0, 4, 200)
    trust = GateTrust(weights, by_expert, true)
    several = (weights > 0).sum(1) > 1
    for expert in range(3):
        counted = several & (weights[:, expert] > 0)
        right = by_expert[counted, expert].argmax(1) == true[counted]
        for scores, auc in (
            (weights[counted, expert], trust.expert_auc(expert)),
            (by_expert[counted, expert].max(1), trust.expert_confidence_auc(expert)),
        ):
            gap = scores[right][:, None] - scores[~right][None]
            assert auc == pytest.approx(((gap > 0) + 0.5 * (gap == 0)).mean())


def test_weights_that_follow_the_right_expert_have_an_auc_of_one() -> None:
    draw = np.random.default_rng(1)
    by_expert = draw.dirichlet(np.ones(3), (400, 3))
    true = draw.integers(0, 3, 400)
    right = by_expert.argmax(-1) == true[:, None]
    names = [f"d{index // 10}" for index in range(400)]
    bootstrap = DialogueBootstrap(names, 200, 0)
    for weights, expected in ((1 + right, 1.0), (2 - right, 0.0), (np.ones((400, 3)), 0.5)):
        trust = GateTrust(weights / weights.sum(1, keepdims=True), by_expert, true)
        auc, shares = trust.pooled_auc(bootstrap), trust.right_shares(bootstrap)
        assert auc.value == auc.low == auc.high == expected
        if expected != 0.5:
            assert shares["leader"].value == expected
        else:
            assert shares["leader"] == shares["average"], "equal weights lead nobody"
        assert shares["average"].low < shares["average"].value < shares["average"].high


def test_test_metrics_hold_the_figures_and_the_report_says_them() -> None:
    names = [f"d{index}" for index in range(len(WEIGHTS))]
    metrics = measure(answers(), TRUE, names, ["a", "b"], EXPERTS, EvaluationConfig(resamples=100)).metrics
    assert metrics["test.gate.differing"] == 3
    assert metrics["test.gate.auc.low"] <= metrics["test.gate.auc"] == 0.5 <= metrics["test.gate.auc.high"]
    assert metrics["test.gate.text.auc"] == 0.625 and metrics["test.gate.text.confidence_auc"] == 0
    assert metrics["test.gate.leader_right"] == 0.5 == metrics["test.gate.average_right"]
    assert "test.gate.speech.auc" not in metrics, "an AUC that is not defined is left out"
    assert all(np.isfinite(value) for value in metrics.values())
    sentence = trust_sentence(metrics, EXPERTS)
    assert "3 test utterances" in sentence and "AUC of trust is 0.50 [" in sentence
    assert "largest weight is right in 50 %, an average one in 50 %, the most confident one in 0 %" in sentence
    # The cross-modal expert is right with .3 and .2, wrong with .1 and .5.
    assert sentence.endswith("text 0.62 (0.00), cross-modal 0.50 (0.00)."), sentence
    assert "AUC of each" not in trust_sentence(metrics)


def test_experts_that_never_differ_have_no_trust_and_earlier_reports_stay_readable() -> None:
    same = np.repeat(np.array([[RIGHT], [WRONG]]), 3, axis=1)
    weights = np.full((2, 3), 1 / 3)
    figures = GateTrust(weights, same, np.zeros(2, dtype=int)).metrics(EXPERTS, DialogueBootstrap(["a", "b"], 100, 0))
    assert figures["gate.differing"] == 0 and "gate.auc" not in figures and "gate.leader_right" not in figures
    assert trust_sentence({"test.gate.entropy": 0.9, "test.gate.text.mean": 0.4}, EXPERTS) == ""


def test_a_report_says_when_the_weights_are_nearly_equal() -> None:
    assert evenness_words({}) == ""
    assert evenness_words({"test.gate.entropy": 0.98}) == "evenness 0.98"
    assert "close to the plain mean, and which expert leads changes little" in evenness_words(
        {"test.gate.entropy": 0.999}
    )
