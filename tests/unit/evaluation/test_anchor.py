"""Small steps that are each not shown to be worse walk downhill, unless an anchor stops them; slices and their losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from components.evaluate_model.baselines import Baseline, compare_slices, compare_with
from components.gate_model.candidate import Candidate
from components.gate_model.rules import anchor_comparison, champion_comparison, slice_loss
from mistere.artifacts.manifests import ChampionEvaluation, RuleResult
from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.split_metrics import write_predictions
from mistere.metrics.predictions import PREDICTIONS_FILE
from mistere.metrics.slices import DIALOGUES as SLICE_DIALOGUES
from mistere.metrics.slices import DIFFERENCE, SUPPORT
from mistere.model.mixture.prediction import DialoguePrediction

LABELS, TURNS, DIALOGUES = 4, 10, 300
CONFIG = EvaluationConfig(resamples=400)
TRUE = np.random.default_rng(0).integers(0, LABELS, DIALOGUES * TURNS)
NAMES = [f"dialogue-{index:03d}" for index in range(DIALOGUES)]
DIALOGUE_IDS = [name for name in NAMES for _ in range(TURNS)]


def write(path: Path, predicted: np.ndarray) -> None:
    """Predictions of a model that is certain of its answers."""
    answers = [
        DialoguePrediction(np.eye(LABELS)[rows], np.ones((TURNS, 1)), np.eye(LABELS)[rows][:, None], ["text"] * TURNS)
        for rows in predicted.reshape(DIALOGUES, TURNS)
    ]
    write_predictions(path, answers, list(TRUE.reshape(DIALOGUES, TURNS)), NAMES)


def worse(predicted: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """A successor that gets a further share of all utterances wrong."""
    right = np.flatnonzero(predicted == TRUE)
    spoiled = generator.choice(right, round(share * len(TRUE)), replace=False)
    after = predicted.copy()
    after[spoiled] = (after[spoiled] + 1) % LABELS
    return after


@dataclass
class Chain:
    """Releases, each compared with the one before and, if there is an anchor, with the first."""

    folder: Path
    anchored: bool

    def released(self, steps: int, share: float) -> list[np.ndarray]:
        """The models that became the champion, at most ``steps`` after the first one."""
        generator = np.random.default_rng(1)
        champions = [worse(TRUE, 0.3, generator)]
        for _ in range(steps):
            candidate = worse(champions[-1], share, generator)
            verdicts = [result.outcome for result in self.judge(candidate, champions)]
            if set(verdicts) - {"promote", "off"}:
                break
            champions.append(candidate)
        return champions

    def judge(self, candidate: np.ndarray, champions: list[np.ndarray]) -> list[RuleResult]:
        baselines = {Baseline.champion("champion"): champions[-1]}
        if self.anchored:
            baselines[Baseline.anchor("anchor")] = champions[0]
        write(self.folder / PREDICTIONS_FILE, candidate)
        metrics: dict[str, float] = {}
        for baseline, predicted in baselines.items():
            write(self.folder / baseline.file, predicted)
            metrics |= compare_with(baseline, self.folder, LABELS, CONFIG)
        one = Candidate(
            metrics,
            test_digest="test",
            champion_digest="champion",
            champion=ChampionEvaluation(bundle_digest="champion", test_digest="test"),
            anchor_digest="anchor" if self.anchored else "",
            anchor=ChampionEvaluation(bundle_digest="anchor", test_digest="test") if self.anchored else None,
        )
        return [
            champion_comparison.evaluate(one, champion_comparison.Thresholds()),
            anchor_comparison.evaluate(one, anchor_comparison.Thresholds(anchor="mistere/1")),
        ]


def accuracy(predicted: np.ndarray) -> float:
    return float((predicted == TRUE).mean())


def test_twenty_steps_downhill_pass_without_an_anchor_and_stop_with_one(tmp_path: Path) -> None:
    walked = Chain(tmp_path, anchored=False).released(20, 0.005)
    assert len(walked) == 21, "each step is not shown to be worse by more than the margin"
    assert accuracy(walked[0]) - accuracy(walked[-1]) == pytest.approx(0.1, abs=0.001)
    stopped = Chain(tmp_path, anchored=True).released(20, 0.005)
    assert 1 < len(stopped) < 6
    assert accuracy(stopped[0]) - accuracy(stopped[-1]) < 0.02


def sliced(
    folder: Path, candidate: np.ndarray, champion: np.ndarray, parts: dict[str, list[str | None]], **thresholds: int
) -> RuleResult:
    """The answer of the slice rule."""
    write(folder / PREDICTIONS_FILE, candidate)
    write(folder / Baseline.champion("").file, champion)
    metrics = compare_slices(folder, parts, LABELS, CONFIG)  # type: ignore[arg-type]
    for kind, values in parts.items():
        for value in set(values):
            found = [dialogue for dialogue, one in zip(DIALOGUE_IDS, values, strict=True) if one == value]
            sizes = {SUPPORT: len(found), SLICE_DIALOGUES: len(set(found))}
            metrics |= {key.format(name=f"{kind}.{value}"): float(size) for key, size in sizes.items()}
    one = Candidate(
        metrics, champion_digest="c", champion=ChampionEvaluation(bundle_digest="c", test_digest="t"), test_digest="t"
    )
    return slice_loss.evaluate(one, slice_loss.Thresholds(**thresholds))


def test_a_slice_that_loses_is_found_where_the_mean_hides_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    champion = worse(TRUE, 0.3, generator)
    channel: list[str | None] = ["phone" if index % 10 == 0 else "studio" for index in range(len(TRUE))]
    phone = np.array([value == "phone" for value in channel])
    candidate = champion.copy()
    candidate[phone & (generator.random(len(TRUE)) < 0.2)] = 0  # the phone loses
    wrong = np.flatnonzero((candidate != TRUE) & ~phone)
    candidate[wrong[: len(wrong) // 10]] = TRUE[wrong[: len(wrong) // 10]]  # what the studio gains
    assert accuracy(candidate) > accuracy(champion)
    result = sliced(tmp_path, candidate, champion, {"channel": channel})
    assert result.outcome == "reject" and "channel phone loses most" in result.sentence
    few: list[str | None] = ["phone" if index % 40 == 0 else "studio" for index in range(len(TRUE))]
    assert sliced(tmp_path, candidate, champion, {"channel": few}).outcome == "promote", "75 utterances are too few"


def test_a_slice_of_a_few_dialogues_does_not_decide(tmp_path: Path) -> None:
    """The resamples of one dialogue are all alike, so that its interval has no width."""
    for few, outcome in ((9, "promote"), (10, "reject")):
        channel: list[str | None] = ["rare" if one in NAMES[:few] else "other" for one in DIALOGUE_IDS]
        candidate = TRUE.copy()
        candidate[np.array([value == "rare" for value in channel])] = 0
        result = sliced(tmp_path, candidate, TRUE.copy(), {"channel": channel}, min_slice_support=50)
        assert result.outcome == outcome, result.sentence


def test_an_equal_model_keeps_its_slices(tmp_path: Path) -> None:
    """Of 20 models that are right as often as the champion, on other utterances, with 24 slices each, none is rejected."""
    outcomes = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        champion, candidate = (worse(worse(TRUE, 0.2, np.random.default_rng(9)), 0.1, generator) for _ in range(2))
        parts: dict[str, list[str | None]] = {
            kind: [f"v{value}" for value in generator.integers(0, 12, len(TRUE))] for kind in ("queue", "words")
        }
        outcomes.append(sliced(tmp_path, candidate, champion, parts).outcome)
    assert outcomes == ["promote"] * 20


def test_the_difference_in_a_slice_is_that_of_its_utterances(tmp_path: Path) -> None:
    champion = worse(TRUE, 0.3, np.random.default_rng(3))
    write(tmp_path / PREDICTIONS_FILE, TRUE)
    write(tmp_path / Baseline.champion("").file, champion)
    half: list[str | None] = ["first" if index < len(TRUE) // 2 else None for index in range(len(TRUE))]
    metrics = compare_slices(tmp_path, {"half": half}, LABELS, CONFIG)
    name = DIFFERENCE.format(name="half.first")
    assert set(metrics) == {name, f"{name}.low", f"{name}.high"}
    assert metrics[f"{name}.low"] < metrics[name] < metrics[f"{name}.high"]
    assert metrics[name] == pytest.approx(1 - accuracy_of(champion[: len(TRUE) // 2]), abs=0.01)


def accuracy_of(predicted: np.ndarray) -> float:
    return float((predicted == TRUE[: len(predicted)]).mean())
