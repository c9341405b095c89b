"""Statistical power of the champion comparison, and coverage of the confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from components.gate_model.candidate import Candidate
from components.gate_model.rules.champion_comparison import Thresholds, evaluate
from mistere.artifacts.manifests import ChampionEvaluation
from mistere.metrics.classification import DialogueBootstrap, Interval, accuracy, confusion, weighted_f1

SHARES = np.array([0.48, 0.15, 0.13, 0.11, 0.08, 0.03, 0.02])
CLASSES = len(SHARES)
DIALOGUES, UTTERANCES = 280, 2610
BOTH_RIGHT = 0.55


def dialogue_lengths(draw: np.random.Generator) -> np.ndarray:
    """Dialogue lengths ``[280]``, each at least 1, with the sum 2,610."""
    return 1 + draw.multinomial(UTTERANCES - DIALOGUES, draw.dirichlet(np.full(DIALOGUES, 2.5)))


def other_class(draw: np.random.Generator, true: np.ndarray) -> np.ndarray:
    """A wrong class for each label; frequent classes are drawn more often."""
    chances = np.where(np.eye(CLASSES, dtype=bool), 0, SHARES)
    edges = np.cumsum(chances / chances.sum(1, keepdims=True), axis=1)[:, :-1]
    position = draw.random(true.shape)
    classes = np.zeros_like(true)
    for edge in range(CLASSES - 1):
        classes += position >= edges[:, edge][true]
    return classes


@dataclass(frozen=True)
class Pair:
    """Two models on D test splits of N utterances: labels, the challenger's classes, the champion's ``[D, N]``."""

    true: np.ndarray
    challenger: np.ndarray
    champion: np.ndarray


def two_models(draw: np.random.Generator, owners: np.ndarray, draws: int, disagreement: float, gain: float) -> Pair:
    """Exactly a share of each split's utterances is right with one model only; the challenger is right by ``gain`` more.

    Some dialogues divide the models more than others, and some are harder for both. In a split the gain is what chance makes
    of it: each utterance that divides them falls to the challenger by the same odds.
    """
    shape = (draws, len(owners))
    true = draw.choice(CLASSES, size=shape, p=SHARES).astype(np.int64)
    divides = draw.beta(2.0, 2.0 / disagreement - 2.0, (draws, DIALOGUES))[:, owners]
    order = np.log(np.maximum(divides, 1e-12)) + draw.gumbel(size=shape)
    count = round(disagreement * shape[1])
    divided = np.zeros(shape, dtype=bool)
    np.put_along_axis(divided, np.argpartition(-order, count, axis=1)[:, :count], True, axis=1)
    easy = BOTH_RIGHT / (1 - disagreement)
    both = ~divided & (draw.random(shape) < draw.beta(8 * easy, 8 * (1 - easy), (draws, DIALOGUES))[:, owners])
    ours = draw.random(shape) < (disagreement + gain) / (2 * disagreement)
    challenger = np.where(both | (divided & ours), true, other_class(draw, true))
    champion = np.where(both | (divided & ~ours), true, other_class(draw, true))
    return Pair(true, challenger, champion)


SUPERIORITY = Thresholds(champion_mode="superiority")
NOT_WORSE = Thresholds(champion_mode="non_inferiority", champion_margin=0.01)
NOT_MUCH_WORSE = Thresholds(champion_mode="non_inferiority", champion_margin=0.02)


def outcome(difference: Interval, thresholds: Thresholds) -> str:
    """The comparison's decision on a difference."""
    name = "champion.difference.weighted_f1"
    metrics = {name: difference.value, f"{name}.low": difference.low, f"{name}.high": difference.high}
    champion = ChampionEvaluation(bundle_digest="champion", test_digest="test")
    return evaluate(
        Candidate(metrics, test_digest="test", champion_digest="champion", champion=champion), thresholds
    ).outcome


class Trial:
    """Many test splits of the same shape, compared with the same resamples."""

    def __init__(self, draws: int, resamples: int, seed: int = 0) -> None:
        self._draw = np.random.default_rng([seed, draws])
        lengths = dialogue_lengths(np.random.default_rng(seed))
        self.owners = np.repeat(np.arange(DIALOGUES), lengths)
        self._bootstrap = DialogueBootstrap([f"d{owner:03}" for owner in self.owners], resamples, seed)
        self._draws = draws

    def differences(self, disagreement: float, gain: float) -> list[Interval]:
        """The challenger's weighted F1 minus the champion's on every split."""
        return list(self._differences(disagreement, gain))

    def _differences(self, disagreement: float, gain: float) -> Iterator[Interval]:
        for start in range(0, self._draws, 100):
            pair = two_models(self._draw, self.owners, min(100, self._draws - start), disagreement, gain)
            for true, one, other in zip(pair.true, pair.challenger, pair.champion, strict=True):
                yield self._bootstrap.weighted_f1_difference(true, one, other, CLASSES)


def shares(intervals: list[Interval], thresholds: Thresholds) -> dict[str, float]:
    """Relative frequency of each outcome."""
    outcomes = [outcome(one, thresholds) for one in intervals]
    return {name: outcomes.count(name) / len(outcomes) for name in ("promote", "hold", "reject")}


def format_rates(what: str, rates: dict[str, float]) -> str:
    """Format the shares as text."""
    return f"{what}: {', '.join(f'{name} {100 * share:.1f} %' for name, share in rates.items())}"


def test_simulated_splits_have_the_specified_properties() -> None:
    owners = Trial(1, 100).owners
    assert len(owners) == UTTERANCES and len(set(owners.tolist())) == DIALOGUES
    pair = two_models(np.random.default_rng(0), owners, 200, 0.15, 0.03)
    challenger_right, champion_right = pair.challenger == pair.true, pair.champion == pair.true
    assert ((challenger_right != champion_right).sum(1) == round(0.15 * UTTERANCES)).all()
    assert (challenger_right & champion_right).mean() == pytest.approx(BOTH_RIGHT, abs=0.01)
    assert (challenger_right & ~champion_right).mean() == pytest.approx(0.09, abs=0.002)
    assert (champion_right & ~challenger_right).mean() == pytest.approx(0.06, abs=0.002)
    true, one, other = (rows.ravel() for rows in (pair.true, pair.challenger, pair.champion))
    for figure in (accuracy, weighted_f1):
        gain = figure(confusion(true, one, CLASSES)) - figure(confusion(true, other, CLASSES))
        assert float(gain) == pytest.approx(0.03, abs=0.003)
    by_dialogue = np.array(
        [(challenger_right != champion_right)[:, owners == owner].mean(1) for owner in range(DIALOGUES)]
    )
    independent = 0.15 * 0.85 * (1 / np.bincount(owners)).mean()
    assert by_dialogue.var() > 1.15 * independent, "disagreement is clustered in dialogues"


def decided_rightly(draws: int, resamples: int) -> list[str]:
    """Assert that better, worse and equal challengers are distinguished often enough; report the rates."""
    trial = Trial(draws, resamples)
    better, worse, equal = (trial.differences(0.15, gain) for gain in (0.03, -0.03, 0.0))
    rates = {
        "better, superiority": shares(better, SUPERIORITY),
        "worse, superiority": shares(worse, SUPERIORITY),
        "equal, superiority": shares(equal, SUPERIORITY),
        "better, margin 0.01": shares(better, NOT_WORSE),
        "worse, margin 0.01": shares(worse, NOT_WORSE),
        "equal, margin 0.01": shares(equal, NOT_WORSE),
        "equal, margin 0.02": shares(equal, NOT_MUCH_WORSE),
    }
    lines = [format_rates(what, one) for what, one in rates.items()]
    summary = "\n".join(lines)
    assert rates["better, superiority"]["promote"] >= 0.95, summary
    assert rates["worse, superiority"]["reject"] >= 0.95, summary
    assert rates["better, margin 0.01"]["promote"] >= 0.95, summary
    assert rates["worse, margin 0.01"]["promote"] <= 0.05, summary
    assert rates["worse, margin 0.01"]["reject"] >= 0.95, summary
    for what, one in rates.items():
        if what.startswith("equal"):
            assert one["reject"] <= 0.05, summary
    assert rates["equal, superiority"]["promote"] <= 0.05 and rates["equal, superiority"]["hold"] >= 0.9, summary
    assert rates["equal, margin 0.02"]["promote"] > 0.5, summary
    return lines


@pytest.mark.long
def test_comparison_separates_three_points_from_zero(capsys: pytest.CaptureFixture[str]) -> None:
    lines = decided_rightly(draws=200, resamples=500)
    with capsys.disabled():
        print("", "200 splits, 15 % disagreement, 3 points", *lines, sep="\n  ")


@pytest.mark.long
def test_comparison_separates_three_points_from_zero_over_many_splits(capsys: pytest.CaptureFixture[str]) -> None:
    lines = decided_rightly(draws=1000, resamples=2000)
    with capsys.disabled():
        print("", "1,000 splits, 15 % disagreement, 3 points", *lines, sep="\n  ")


@pytest.mark.long
def test_comparison_loses_power_as_disagreement_grows(capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial(draws=200, resamples=500, seed=1)
    power = {share: shares(trial.differences(share, 0.03), SUPERIORITY) for share in (0.1, 0.2, 0.3)}
    with capsys.disabled():
        print(
            "",
            *(format_rates(f"3 points better, {share:.0%} disagreement", one) for share, one in power.items()),
            sep="\n  ",
        )
    assert power[0.1]["promote"] >= 0.99 > power[0.2]["promote"] > power[0.3]["promote"] > 0.5
    assert all(one["reject"] <= 0.01 for one in power.values())


# Coverage


def one_model(draw: np.random.Generator, owners: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions ``[D, N]``; the class distribution and the difficulty vary by dialogue."""
    shape = (draws, len(owners))
    true = draw.choice(CLASSES, size=shape, p=SHARES).astype(np.int64)
    mood = draw.choice(CLASSES, size=(draws, DIALOGUES), p=SHARES).astype(np.int64)[:, owners]
    true = np.where(draw.random(shape) < 0.3, mood, true)
    skill = np.array([1.4, 0.6, 0.3, 0.4, 0.0, -0.6, -0.8])[true] + draw.normal(0, 0.9, (draws, DIALOGUES))[:, owners]
    right = draw.random(shape) < 1 / (1 + np.exp(-skill))
    return true, np.where(right, true, other_class(draw, true))


def coverage(sets: int, resamples: int) -> tuple[float, float, float]:
    """Coverage of the 95 % interval of weighted F1, the true value, and the mean width."""
    draw = np.random.default_rng(sets)
    owners = np.repeat(np.arange(DIALOGUES), dialogue_lengths(draw))
    true, predicted = one_model(draw, owners, 400)
    truth = float(weighted_f1(confusion(true.ravel(), predicted.ravel(), CLASSES)))
    names = [f"d{owner:03}" for owner in owners]
    covered, width = 0, 0.0
    for start in range(0, sets, 100):
        bootstrap = DialogueBootstrap(names, resamples, seed=start)
        for labels, answers in zip(*one_model(draw, owners, min(100, sets - start)), strict=True):
            estimate = bootstrap.weighted_f1(labels, answers, CLASSES)
            covered += estimate.low <= truth <= estimate.high
            width += estimate.high - estimate.low
    return covered / sets, truth, width / sets


def test_interval_coverage_matches_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    covered, truth, width = coverage(sets=300, resamples=300)
    with capsys.disabled():
        print(f"\n  [{100 * covered:.1f} % of 300 intervals (mean width {width:.3f}) hold the true {truth:.3f}]")
    assert 0.90 <= covered <= 0.985


@pytest.mark.long
def test_interval_coverage_matches_its_level_over_many_splits(capsys: pytest.CaptureFixture[str]) -> None:
    covered, truth, width = coverage(sets=2000, resamples=2000)
    with capsys.disabled():
        print(f"\n  [{100 * covered:.1f} % of 2,000 intervals (mean width {width:.3f}) hold the true {truth:.3f}]")
    assert 0.925 <= covered <= 0.97
