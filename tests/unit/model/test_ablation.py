"""Ablations on small real trainings: the changed setting, the comparison and the notes."""

from __future__ import annotations

import numpy as np
import pytest

from mistere.common.errors import UsageError
from mistere.config.evaluation import EvaluationConfig
from mistere.config.mixture import MixtureConfig
from mistere.metrics.classification import DialogueBootstrap
from mistere.model.embeddings import EmbeddedDialogues
from mistere.reports.curves import missing_modality_plot
from pipelines.cli.experiments.ablation import NAMES, Ablation, ablate, check_names, mean_curve, variant
from pipelines.cli.experiments.trial import Resamples, Trial, predicted, run_trial, seeds_of
from tests.unit.model.test_moe import toy_config, write_toy

EVALUATION = EvaluationConfig(resamples=200)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedDialogues:
    return write_toy(tmp_path_factory.mktemp("toy"))


CONFIG = toy_config(epochs=2)


@pytest.fixture(scope="module")
def full(toy: EmbeddedDialogues) -> list[Trial]:
    return [run_trial(config, toy, EVALUATION) for config in seeds_of(CONFIG, 2)]


@pytest.fixture(scope="module")
def table(toy: EmbeddedDialogues, full: list[Trial]) -> tuple[Ablation, list[tuple[str, MixtureConfig, Trial]]]:
    trained: list[tuple[str, MixtureConfig, Trial]] = []

    def train(name: str, config: MixtureConfig) -> Trial:
        trained.append((name, config, run_trial(config, toy, EVALUATION)))
        return trained[-1][2]

    return ablate(NAMES, CONFIG, toy, full, EVALUATION, train), trained


def test_unknown_ablation_raises_a_usage_error_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown part 'contrastiv'; did you mean 'contrastive'\?"):
        check_names(["gate", "contrastiv"])
    with pytest.raises(UsageError, match="valid names: context, contrastive"):
        check_names(["xyz"])
    assert check_names(["kl", "gate"]) == ["kl", "gate"]


@pytest.mark.long
def test_each_ablation_trains_with_the_same_seeds_and_one_change(
    table: tuple[Ablation, list[tuple[str, MixtureConfig, Trial]]],
) -> None:
    wanted = {
        "gate": {"gate": "mean"},
        "contrastive": {"contrastive_weight": 0.0},
        "kl": {"consistency_weight": 0.0},
        "context": {"context": "utterance"},
        "modality_dropout": {"modality_dropout": 0.0},
        "fusion": {"fusion": "feed_forward"},
    }
    ablation, trained = table
    assert [row.name for row in ablation.rows] == list(NAMES) == list(wanted)
    assert [(name, config.seed) for name, config, _ in trained] == [(name, seed) for name in NAMES for seed in (0, 1)]
    for name, config, trial in trained:
        assert config == CONFIG.model_copy(update=wanted[name] | {"seed": config.seed})
        assert trial.seed == config.seed and trial.trained.model.config == config


@pytest.mark.long
def test_ablation_row_holds_mean_spread_and_paired_difference(
    table: tuple[Ablation, list[tuple[str, MixtureConfig, Trial]]], toy: EmbeddedDialogues, full: list[Trial]
) -> None:
    ablation, trained = table
    for row in ablation.rows:
        trials = [trial for name, _, trial in trained if name == row.name]
        scores = [trial.metrics["test.weighted_f1"] for trial in trials]
        assert row.mean == pytest.approx(np.mean(scores)) and row.std == pytest.approx(np.std(scores, ddof=1))
        base = np.mean([trial.metrics["test.weighted_f1"] for trial in full])
        assert row.difference is not None and row.difference.value == pytest.approx(row.mean - base, abs=1e-7)
        assert row.difference.low <= row.difference.high
        assert row.sentence.startswith(row.title) and f"{100 * row.difference.value:+.1f} points" in row.sentence
        verdict = row.sentence.rsplit(", ", 1)[1]
        clear = row.difference.high < 0 or row.difference.low > 0
        assert clear == verdict.startswith("a clear") and clear != verdict.startswith("within")


@pytest.mark.long
def test_single_seed_difference_comes_from_the_paired_bootstrap(toy: EmbeddedDialogues, full: list[Trial]) -> None:
    test = toy.split("test")
    true = np.concatenate([dialogue.labels for dialogue in test])
    names = [dialogue.dialogue_id for dialogue in test for _ in range(len(dialogue))]
    one, other = predicted(full[0]), predicted(full[1])
    bootstrap = DialogueBootstrap(names, EVALUATION.resamples, EVALUATION.seed)
    resamples = Resamples(toy, EVALUATION)
    single = bootstrap.weighted_f1_difference(true, one, other, 3)
    difference = resamples.difference([one], [other])
    assert [difference.value, difference.low, difference.high] == pytest.approx([single.value, single.low, single.high])
    same = resamples.difference([one, other], [one, other])
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.long
def test_ablation_reports_curves_with_and_without_modality_dropout(
    table: tuple[Ablation, list[tuple[str, MixtureConfig, Trial]]], full: list[Trial]
) -> None:
    ablation, trained = table
    without = [trial for name, _, trial in trained if name == "modality_dropout"]
    assert ablation.curves == {"with modality dropout": mean_curve(full), "without": mean_curve(without)}
    point = ablation.curves["without"][3]
    key = f"test.missing.{point.modality}.{100 * point.share:.0f}.weighted_f1"
    assert point.weighted_f1.value == pytest.approx(np.mean([trial.metrics[key] for trial in without]))
    assert "with modality dropout" in missing_modality_plot(ablation.curves)


@pytest.mark.long
def test_ablation_enables_modality_dropout_if_the_model_has_none(toy: EmbeddedDialogues) -> None:
    bare = toy_config(epochs=1, modality_dropout=0.0)
    full = [run_trial(bare, toy, EVALUATION)]
    ablation = ablate(["modality_dropout"], bare, toy, full, EVALUATION)
    assert ablation.rows[0].title == "modality dropout 0.1" and ablation.rows[0].std == 0
    assert ablation.curves["without"] == mean_curve(full)


def test_ablation_without_effect_is_noted_and_not_trained(toy: EmbeddedDialogues) -> None:
    alone = toy.only(["text"])
    settings = {"gate": "mean", "contrastive_weight": 0.0, "consistency_weight": 0.0, "context": "utterance"}
    plain = toy_config(epochs=1, **settings)
    full = [run_trial(plain, alone, EVALUATION)]

    def train(name: str, config: MixtureConfig) -> Trial:
        raise AssertionError(f"{name} was trained")

    ablation = ablate([name for name in NAMES if name != "fusion"], plain, alone, full, EVALUATION, train)
    assert all(row.mean is None and row.difference is None for row in ablation.rows) and ablation.curves == {}
    assert all("no effect" in row.sentence for row in ablation.rows) and len(ablation.rows) == 5
    for name in ("gate", "contrastive", "kl", "context", "fusion"):
        assert variant(name, CONFIG, modalities=1)[1], "one modality and the cross-modal expert: all of these matter"
