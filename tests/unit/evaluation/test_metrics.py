"""Metrics match scikit-learn; bootstrap intervals have the stated coverage and depend on the seed only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mistere.metrics.classification import (
    DialogueBootstrap,
    accuracy,
    confusion,
    f1_per_class,
    macro_f1,
    weighted_f1,
)

Labels = tuple[int, list[tuple[int, int]]]
LABELS = st.integers(2, 7).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_metrics_match_scikit_learn(drawn: Labels) -> None:
    classes, pairs = drawn
    true, predicted = np.array(pairs).T
    counts = confusion(true, predicted, classes)
    labels = list(range(classes))
    assert counts.tolist() == reference.confusion_matrix(true, predicted, labels=labels).tolist()
    for average, estimate in (
        ("weighted", weighted_f1(counts)),
        ("macro", macro_f1(counts)),
        (None, f1_per_class(counts)),
    ):
        wanted = reference.f1_score(true, predicted, labels=labels, average=average, zero_division=0)
        np.testing.assert_allclose(estimate, wanted, atol=1e-12)
    assert accuracy(counts) == pytest.approx(reference.accuracy_score(true, predicted))


def test_stacked_counts_give_stacked_metrics() -> None:
    draw = np.random.default_rng(0)
    counts = draw.integers(0, 9, size=(5, 3, 3))
    for figure in (weighted_f1, macro_f1, accuracy):
        np.testing.assert_allclose(figure(counts), [figure(one) for one in counts])


def test_metrics_of_no_utterances_are_zero() -> None:
    nothing = np.zeros((3, 3), dtype=int)
    assert weighted_f1(nothing) == macro_f1(nothing) == accuracy(nothing) == 0


def sample(draw: np.random.Generator, dialogues: int, skill: float) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Dialogues of different difficulty, so that utterances of a dialogue are dependent."""
    names, true, predicted = [], [], []
    for index in range(dialogues):
        n = int(draw.integers(3, 12))
        labels = draw.integers(0, 3, n)
        hit = draw.random(n) < np.clip(skill + draw.normal(0, 0.2), 0, 1)
        names += [f"d{index}"] * n
        true.append(labels)
        predicted.append(np.where(hit, labels, (labels + draw.integers(1, 3, n)) % 3))
    return names, np.concatenate(true), np.concatenate(predicted)


@pytest.mark.long
def test_interval_coverage_is_close_to_its_level() -> None:
    draw = np.random.default_rng(1)
    _, true, predicted = sample(draw, 20000, 0.6)
    truth = float(weighted_f1(confusion(true, predicted, 3)))
    covered = 0
    for trial in range(200):
        names, true, predicted = sample(draw, 40, 0.6)
        estimate = DialogueBootstrap(names, 300, seed=trial, interval=0.9).weighted_f1(true, predicted, 3)
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= truth <= estimate.high
    assert 0.82 <= covered / 200 <= 0.96


def test_estimate_is_the_sample_value_in_any_order() -> None:
    draw = np.random.default_rng(2)
    names, true, predicted = sample(draw, 30, 0.5)
    estimate = DialogueBootstrap(names, 100, seed=0).weighted_f1(true, predicted, 3)
    assert estimate.value == pytest.approx(reference.f1_score(true, predicted, average="weighted"))
    order = draw.permutation(len(true))
    again = DialogueBootstrap([names[i] for i in order], 100, seed=0).weighted_f1(true[order], predicted[order], 3)
    assert again == estimate


def test_paired_difference_has_the_right_sign_and_a_narrower_interval() -> None:
    draw = np.random.default_rng(3)
    names, true, one = sample(draw, 80, 0.6)
    worse = one.copy()
    spoiled = draw.random(len(true)) < 0.1
    worse[spoiled] = (true[spoiled] + 1) % 3
    bootstrap = DialogueBootstrap(names, 1000, seed=0)
    estimate = bootstrap.weighted_f1_difference(true, one, worse, 3)
    back = bootstrap.weighted_f1_difference(true, worse, one, 3)
    assert estimate.low > 0 and back.high < 0
    assert (back.value, back.low, back.high) == pytest.approx((-estimate.value, -estimate.high, -estimate.low))
    alone = bootstrap.weighted_f1(true, one, 3)
    assert estimate.high - estimate.low < alone.high - alone.low
    same = bootstrap.weighted_f1_difference(true, one, one, 3)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_bootstrap_draws_depend_on_the_seed_only() -> None:
    names, true, predicted = sample(np.random.default_rng(4), 30, 0.5)
    first, second, other = (DialogueBootstrap(names, 200, seed).weighted_f1(true, predicted, 3) for seed in (0, 0, 1))
    assert first == second and first != other


def test_single_dialogue_has_a_zero_width_interval() -> None:
    true, predicted = np.array([0, 1, 1]), np.array([0, 1, 0])
    estimate = DialogueBootstrap(["only"] * 3, 100, seed=0).weighted_f1(true, predicted, 2)
    assert estimate.low == estimate.value == estimate.high
