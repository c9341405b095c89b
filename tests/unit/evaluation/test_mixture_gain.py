"""The mixture's gain over its experts and their plain mean is paired, and is read back from the metrics."""

from __future__ import annotations

import numpy as np
import pytest

from components.gate_model.candidate import Candidate
from components.gate_model.rules.mixture_gain import Thresholds, evaluate
from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.split_metrics import Answers, measure
from mistere.metrics.classification import DialogueBootstrap, confusion, weighted_f1
from mistere.metrics.mixture_gain import gain_from_metrics
from mistere.model.mixture.prediction import DialoguePrediction

EXPERTS = ["speech", "text", "cross_modal"]
CLASSES, DIALOGUES, TURNS = 4, 40, 8


def predictions(
    skill: tuple[float, float, float], trust: tuple[float, float, float], absent: float = 0.0
) -> tuple[list[DialoguePrediction], np.ndarray]:
    """Experts whose logits favour the true class by ``skill``, with the gate's weights ``trust``; and the true classes."""
    draw = np.random.default_rng(0)
    count = DIALOGUES * TURNS
    true = draw.integers(0, CLASSES, count)
    logits = draw.normal(size=(count, 3, CLASSES)) + np.array(skill)[:, None] * np.eye(CLASSES)[true][:, None]
    weights = np.tile(np.array(trust), (count, 1))
    weights[draw.random(count) < absent, 0] = 0
    logits[weights == 0] = 0
    weights /= weights.sum(1, keepdims=True)

    def softmax(scores: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))

    mixed, experts = softmax((weights[..., None] * logits).sum(1)), softmax(logits)
    parts = [slice(start, start + TURNS) for start in range(0, count, TURNS)]
    return [DialoguePrediction(mixed[at], weights[at], experts[at], ["any"] * TURNS) for at in parts], true


def metrics_of(answers: list[DialoguePrediction], true: np.ndarray, coverage: float = 0.95) -> dict[str, float]:
    names = [f"d{index}" for index in range(DIALOGUES)]
    labels = [f"c{index}" for index in range(CLASSES)]
    return measure(
        answers, true, names, labels, EXPERTS, EvaluationConfig(resamples=300, gain_coverage=coverage)
    ).metrics


def test_gain_is_the_paired_difference_from_the_best_expert_and_from_the_mean() -> None:
    answers, true = predictions((0.5, 2.0, 1.0), (0.8, 0.1, 0.1))
    metrics = metrics_of(answers, true)
    gain = gain_from_metrics(metrics, EXPERTS)
    assert gain is not None and gain.best == "text" and gain.coverage == 0.95
    flat = Answers.of(answers, [f"d{index}" for index in range(DIALOGUES)])
    text, equal = flat.by_expert[:, 1].argmax(1), np.log(flat.by_expert).mean(1).argmax(1)
    bootstrap = DialogueBootstrap(flat.dialogues, 300, 0)
    for measured, other in ((gain.over_best, text), (gain.over_mean, equal)):
        expected = bootstrap.weighted_f1_difference(true, flat.predicted, other, CLASSES)
        assert (measured.value, measured.low, measured.high) == pytest.approx(
            (expected.value, expected.low, expected.high), abs=1e-7
        )
        scores = [float(weighted_f1(confusion(true, one, CLASSES))) for one in (flat.predicted, other)]
        assert measured.value == pytest.approx(scores[0] - scores[1], abs=1e-7)
    decision = evaluate(Candidate(metrics, experts=EXPERTS), Thresholds())
    assert decision.outcome == "reject" and "(text)" in decision.sentence, "the gate trusts the weakest expert"


def test_mixture_that_uses_its_experts_passes_in_both_modes() -> None:
    answers, true = predictions((1.5, 1.5, 1.5), (0.34, 0.33, 0.33))
    metrics = metrics_of(answers, true)
    for mode in ("not_shown_below", "non_inferiority"):
        decision = evaluate(Candidate(metrics, experts=EXPERTS), Thresholds(mixture_mode=mode, mixture_margin=0.02))  # type: ignore[arg-type]
        assert decision.outcome == "promote", decision.sentence
    even, true = predictions((1.5, 1.5, 1.5), (1.0, 1.0, 1.0))
    equal = gain_from_metrics(metrics_of(even, true), EXPERTS)
    assert equal is not None and equal.over_mean.value == equal.over_mean.low == equal.over_mean.high == 0


def test_coverage_widens_the_interval_and_keeps_the_value() -> None:
    answers, true = predictions((0.5, 2.0, 1.0), (0.3, 0.4, 0.3))
    narrow, wide = (gain_from_metrics(metrics_of(answers, true, one), EXPERTS) for one in (0.8, 0.99))
    assert narrow is not None and wide is not None and narrow.over_best.value == wide.over_best.value
    assert wide.over_best.low < narrow.over_best.low < narrow.over_best.high < wide.over_best.high
    assert (
        "paired 99 % interval"
        in evaluate(Candidate(metrics_of(answers, true, 0.99), experts=EXPERTS), Thresholds()).sentence
    )


def test_absent_expert_is_replaced_by_the_mixture() -> None:
    answers, _ = predictions((3.0, 0.5, 0.5), (0.4, 0.3, 0.3), absent=0.5)
    flat = Answers.of(answers, [f"d{index}" for index in range(DIALOGUES)])
    absent = flat.weights[:, 0] == 0
    assert 0.3 < absent.mean() < 0.7
    np.testing.assert_array_equal(flat.alone(0)[absent], flat.predicted[absent])
    np.testing.assert_array_equal(flat.alone(0)[~absent], flat.by_expert[~absent, 0].argmax(1))


def test_report_of_an_earlier_version_lacks_the_gain_and_is_rejected_by_the_rule_only() -> None:
    answers, true = predictions((0.5, 2.0, 1.0), (0.3, 0.4, 0.3))
    earlier = {name: value for name, value in metrics_of(answers, true).items() if "gain" not in name}
    assert gain_from_metrics(earlier, EXPERTS) is None
    decision = evaluate(Candidate(earlier, experts=EXPERTS), Thresholds())
    assert decision.outcome == "reject" and "was not measured" in decision.sentence
    assert evaluate(Candidate(earlier, experts=EXPERTS), Thresholds(mixture_margin=False)).outcome == "off"
