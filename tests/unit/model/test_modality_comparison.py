"""``mistere train`` without ``modalities: auto`` says which modalities help, and changes nothing; ``mistere tune`` says it of its trials."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pytest

from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import Interval
from mistere.metrics.modality_choice import ModalityChoice, SubsetScore
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.modality_subsets import train_subsets
from mistere.model.mixture.prediction import LabelledTurns
from mistere.model.mixture.training import TrainedMixture, train_mixture
from pipelines.cli.commands.train import train
from pipelines.cli.experiments import modality_comparison
from pipelines.cli.experiments.held_out import HeldOut, Report, Scored
from pipelines.cli.experiments.modality_comparison import best_trials, compare_modalities, estimated_seconds
from pipelines.cli.experiments.search_space import space, subsets_in
from pipelines.cli.experiments.trial import Trial, seeds_of
from pipelines.cli.experiments.tuning import STUDY_FILE, tune
from pipelines.profiles import load_profile
from tests.unit.artifacts.embeddings_folder import write_embeddings
from tests.unit.model.dialogue_sets import dialogues_of
from tests.unit.model.fixed_settings import FIXED

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = MixtureConfig.model_validate(
    FIXED
    | {
        "hidden": 4,
        "gru_layers": 1,
        "kernels": [1],
        "fusion": "feed_forward",
        "fusion_width": 8,
        "learning_rate": 1e-2,
        "epochs": 2,
        "gate": "mean",  # fitting one takes longer than these trainings
    }
)


def training(config: MixtureConfig, data: EmbeddedDialogues) -> TrainedMixture:
    return train_mixture(config, data, progress=Progress("train"))


def trial_of(config: MixtureConfig, data: EmbeddedDialogues) -> Trial:
    return Trial(config.seed, training(config, data), [], LabelledTurns([], np.zeros(0), []), {})


def score(names: tuple[str, ...], value: float, low: float, high: float) -> SubsetScore:
    return SubsetScore(names, Interval(0.6 + value, 0.5, 0.7), Interval(value, low, high))


# Train


def test_train_compares_the_subsets_and_changes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_embeddings(tmp_path / "embeddings")
    settings = ["mixture.epochs=2", "mixture.gate=mean", "evaluation.resamples=100"]
    train(source, "tiny", settings, 1, [], tmp_path / "with", None)
    shown = capsys.readouterr().out
    train(source, "tiny", settings, 1, [], tmp_path / "without", None, compare=False)
    assert "On dev" not in capsys.readouterr().out
    metrics, others = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("with", "without"))
    compared = metrics.pop("modalities")
    assert metrics == others
    for name in ("model/mixture.safetensors", "predictions.parquet"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert compared["chosen"] == ["speech", "text"] and len(compared["subsets"]) == 3
    page = (tmp_path / "with" / "report.html").read_text()
    assert compared["finding"] in shown and compared["finding"] in page and "What each modality brings" in page


def test_the_comparison_is_that_of_auto_and_does_not_read_test() -> None:
    data = dialogues_of()
    configs = seeds_of(SMALL, 2)
    trials = [trial_of(config, data) for config in configs]
    choice = compare_modalities(configs, data, trials, training, print, wanted=None)
    assert choice is not None and not choice.applied
    assert choice.subsets == train_subsets(configs, data, training)[0].subsets  # as ``auto`` does it
    spoiled = {
        "train": data.split("train"),
        "dev": data.split("dev"),
        "test": [EmbeddedDialogue(one.dialogue_id, one.rows, (one.labels + 1) % 4) for one in data.split("test")],
    }
    for other in (data.with_splits(spoiled), data.without("test")):
        assert compare_modalities(configs, other, trials, training, print, wanted=True) == choice


def test_a_comparison_that_is_not_cheap_is_made_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dialogues_of()
    trial = trial_of(SMALL, data)
    seconds = estimated_seconds([trial], data, [("speech",), ("text",)])
    assert 0 < seconds == pytest.approx(estimated_seconds([trial] * 2, data, [("text",)]))
    monkeypatch.setattr(modality_comparison, "CHEAP_SECONDS", 0.9 * seconds)
    notes: list[str] = []
    assert compare_modalities([SMALL], data, [trial], training, notes.append, wanted=None) is None
    assert "--compare-modalities" in notes[0]
    assert compare_modalities([SMALL], data, [trial], training, notes.append, wanted=True) is not None
    monkeypatch.setattr(modality_comparison, "CHEAP_SECONDS", 1.1 * seconds)
    assert compare_modalities([SMALL], data, [trial], training, notes.append, wanted=None) is not None
    assert compare_modalities([SMALL], data, [trial], training, notes.append, wanted=False) is None
    assert compare_modalities([SMALL], data.only(["text"]), [trial], training, notes.append, wanted=True) is None
    assert len(notes) == 1


def test_a_modality_that_hurts_is_named_and_still_used() -> None:
    subsets = [
        score(("speech", "text"), 0, 0, 0),
        score(("speech",), -0.1, -0.2, 0),
        score(("text",), 0.03, 0.01, 0.05),
    ]
    choice = ModalityChoice(subsets, applied=False)
    assert choice.winner is subsets[2] and choice.chosen is subsets[0] and choice.left_out == []
    assert choice.sentence() == (
        "On dev, text alone scores +3.0 [+1.0, +5.0] points of weighted F1 against speech and text: "
        "speech hurts, but all are used; mixture.modalities=auto leaves out what hurts."
    )


# Tune


def test_search_tries_every_subset_first_and_compares_their_best_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dialogues_of()
    right_with = {"speech": 0.4, "text": 0.9, "speech+text": 0.6}

    def score_of(held_out: HeldOut, config: MixtureConfig, report: Report) -> Scored:
        report(1, 0.1)
        share = right_with["+".join(config.modalities)]
        true = held_out.true
        wrong = np.arange(len(true)) % 10 >= 10 * share
        return Scored(share, np.where(wrong, (true + 1) % 4, true)[None])

    monkeypatch.setattr(HeldOut, "score", score_of)
    config = load_profile("tiny", ["mixture.epochs=1"]).mixture

    def search(output: Path, trials: int) -> modality_comparison.BestTrials | None:
        found = tune(config, data, output, trials=trials, seeds=1, timeout_minutes=None, on_trial=lambda text: None)
        return found.subsets

    few = search(tmp_path, 2)
    assert few is not None and len(few.scores) + len(few.untried) == 3 and few.untried
    found = search(tmp_path, 12)
    again = search(tmp_path, 12)
    assert found is not None and again == found and not found.untried
    (name,) = optuna.get_all_study_names(f"sqlite:///{tmp_path / STUDY_FILE}")
    trials = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / STUDY_FILE}").trials
    assert len(trials) == 12 and [one.params["modalities"] for one in trials[2:4]] == ["speech", "text"]
    assert [one.modalities for one in found.scores] == [("text",), ("speech", "text"), ("speech",)]
    assert "The best trial uses text; the best one with speech and text scores -" in found.sentence()
    assert "significantly less: speech hurts." in found.sentence()


def test_best_trials_without_a_clear_winner_and_without_subsets() -> None:
    data = dialogues_of()
    judges = HeldOut(data, 1, 0, 0)
    subsets = subsets_in(space(data, SMALL))
    assert subsets == [("speech", "text"), ("speech",), ("text",)]
    right = judges.true[None]
    worse = right.copy()
    worse[0, 0] = (worse[0, 0] + 1) % 4
    found = best_trials(subsets, [("speech", "text"), ("text",)], [0.9, 0.95], [worse, right], 1, judges)
    assert found is not None and found.sentence().startswith(
        "The best trial uses text; the best one with speech and text"
    )
    assert "not significantly less; no trial with speech finished." in found.sentence()
    assert subsets_in(space(data.only(["text"]), SMALL)) == [("",)]
    assert best_trials([("",)], [("",)], [0.9], [right], 0, judges) is None
