"""``mistere tune`` never reads test, can be resumed and is reproducible."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import optuna
import pytest
from typer.testing import CliRunner

from mistere.common.errors import UsageError
from mistere.config.mixture import MixtureConfig
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.automatic_settings import TrainSize, resolve
from mistere.model.mixture.mixture import input_dropouts, projections
from pipelines.cli.app import app
from pipelines.cli.experiments.held_out import HeldOut, Report, Scored
from pipelines.cli.experiments.imported_embeddings import open_embeddings
from pipelines.cli.experiments.search_space import as_settings, initial_parameters, space, suggest
from pipelines.cli.experiments.tuning import STUDY_FILE, Tuned, tune
from pipelines.profiles import load_profile
from tests.unit.artifacts.embeddings_folder import write_embeddings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embeddings(tmp_path_factory.mktemp("embeddings"))


def search(
    data: EmbeddedDialogues, output: Path, trials: int = 3, *settings: str, folds: int = 0, seeds: int = 1
) -> Tuned:
    config = load_profile("tiny", ["mixture.epochs=2", *settings]).mixture
    return tune(
        config, data, output, trials=trials, seeds=seeds, folds=folds, timeout_minutes=None, on_trial=lambda text: None
    )


def stored_study(output: Path) -> optuna.Study:
    (name,) = optuna.get_all_study_names(f"sqlite:///{output / STUDY_FILE}")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{output / STUDY_FILE}")


def scores(output: Path) -> list[tuple[dict[str, object], float | None]]:
    return [(trial.params, trial.value) for trial in stored_study(output).trials]


@pytest.mark.long
def test_search_is_reproducible_and_does_not_read_the_test_split(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    result = search(data, tmp_path / "one")
    assert result.trials == 3 and result.weighted_f1 >= result.start
    splits = {name: data.split(name) for name in ("train", "dev")}  # type: ignore[arg-type]
    spoiled = [EmbeddedDialogue(d.dialogue_id, d.rows, (d.labels + 1) % 3) for d in data.split("test")]
    matrices = {name: data._matrices[name] for name in data.dimensions}
    other = EmbeddedDialogues({**splits, "test": spoiled}, matrices, data.labels)
    assert search(other, tmp_path / "two") == result
    assert scores(tmp_path / "one") == scores(tmp_path / "two")


@pytest.mark.long
def test_search_resumes_from_saved_trials(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    search(data, tmp_path, 2)
    before = scores(tmp_path)
    stored_study(tmp_path).ask()  # as after a kill
    assert [list(trial.intermediate_values) for trial in stored_study(tmp_path).trials[:2]] == [[1, 2]] * 2
    result = search(data, tmp_path, 4)
    after = scores(tmp_path)
    assert result.trials == 4 and after[:2] == before and len(after) == 5 and after[2][1] is None
    assert len({str(params) for params, value in after if value is not None}) == 4
    assert search(data, tmp_path, 4) == result


@pytest.mark.long
def test_different_search_in_the_same_folder_is_rejected(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    search(data, tmp_path, 1)
    with pytest.raises(UsageError, match="other embeddings or settings"):
        search(data, tmp_path, 1, "mixture.gru_layers=2")


@pytest.mark.long
def test_search_that_is_killed_in_the_first_trial_starts_with_the_initial_settings_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    data = open_embeddings(folder)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(HeldOut, "score", killed)
        search(data, tmp_path, 2)
    result = search(data, tmp_path, 2)
    first = next(trial for trial in stored_study(tmp_path).trials if trial.value is not None)
    assert first.user_attrs["initial"] and first.value == result.start and result.trials == 2


@pytest.mark.long
def test_trial_below_the_median_ends_early_but_never_the_initial_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_embeddings(folder)
    levels = iter([0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 0.55, 0.65, 0.95])  # the median of the first six is 0.65

    def score(held_out: HeldOut, config: MixtureConfig, report: Report) -> Scored:
        level = next(levels)
        for epoch in (1, 5, 6):
            report(epoch, level)
        return Scored(level, held_out.true[None])

    monkeypatch.setattr(HeldOut, "score", score)
    result = search(data, tmp_path, 9)
    trials = stored_study(tmp_path).trials
    assert [trial.number for trial in trials if trial.state == optuna.trial.TrialState.PRUNED] == [6]
    assert max(trials[6].intermediate_values) == 5 and result.pruned == 1 and result.trials == 9
    assert trials[0].user_attrs["initial"] and result.start == 0.1 and result.weighted_f1 == 0.95

    study = stored_study(tmp_path)
    first = next(trial for trial in study.trials if trial.user_attrs.get("initial"))
    levels = iter([0.1])
    study.enqueue_trial(first.params, user_attrs={"initial": True})  # as after a first trial that was killed
    assert search(data, tmp_path, 10).pruned == 1


def test_space_covers_regularisation_inputs_gate_and_modality_subsets(folder: Path) -> None:
    dimensions = {one.name: one for one in space(open_embeddings(folder), MixtureConfig())}
    assert dimensions.keys() >= {
        "weight_decay",
        "batch_dialogues",
        "input_dropout.speech",
        "input_dropout.text",
        "expert_rates.speech",
        "skip_dropout",
        "context_dropout",
        "fusion_dropout",
        "standardise",
        "gate",
    }
    assert dimensions["modalities"].choices == ("speech+text", "speech", "text")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden": 512, "fusion_width": 700, "learning_rate": 1.2345e-5, "weight_decay": 0.3, "focal_gamma": 2.5},
        {"input_dropout": {"text": 0.7}, "expert_rates": {"speech": 5.0}, "projection": {"speech": 3}},
        {"batch_dialogues": 3, "modality_dropout": 0.55, "fusion_dropout": 0.0, "schedule": "linear"},
    ],
)
def test_first_trial_has_exactly_the_initial_settings(folder: Path, settings: dict[str, object]) -> None:
    config = MixtureConfig(**settings)  # type: ignore[arg-type]
    dimensions = space(open_embeddings(folder), config)
    trial = optuna.trial.FixedTrial(initial_parameters(dimensions))
    found = as_settings(suggest(trial, dimensions), dimensions, config)  # type: ignore[arg-type]
    assert found.pop("modalities") == ["speech", "text"]
    initial = resolve(config, TrainSize.of(open_embeddings(folder)))
    widths = dict.fromkeys(("speech", "text"), 0)
    assert found.pop("input_dropout") == input_dropouts(initial, widths)
    assert found.pop("projection", {}) == projections(initial, widths)
    rates = initial.expert_rates
    assert isinstance(rates, dict) and found.pop("expert_rates") == dict.fromkeys(widths, 1.0) | rates
    assert found == {name: getattr(initial, name) for name in found}


def test_suggested_numbers_have_three_digits(folder: Path) -> None:
    config = MixtureConfig()
    dimensions = space(open_embeddings(folder), config)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        for value in as_settings(suggest(study.ask(), dimensions), dimensions, config).values():
            assert not isinstance(value, float) or value == float(f"{value:.3g}")


@pytest.mark.long
def test_a_setting_by_modality_is_searched_for_each_and_trains(folder: Path) -> None:
    data = open_embeddings(folder)
    config = load_profile("tiny", ["mixture.epochs=1", "mixture.projection={speech: 3}"]).mixture
    dimensions = space(data, config)
    assert {one.name: one.choices for one in dimensions}["projection.speech"] == (0, 3)
    chosen = initial_parameters(dimensions) | {"input_dropout.speech": 0.25, "projection.speech": 0}
    settings = as_settings(chosen, dimensions, config)
    assert settings["input_dropout"]["speech"] == 0.25 and settings["projection"] == {}
    model = MixtureConfig.model_validate(config.model_dump() | settings)
    assert HeldOut(data, 1, 0, 0).score(model, lambda step, value: None).value > 0


def test_suggestions_omit_settings_without_effect(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    config = MixtureConfig()
    start = initial_parameters(space(data, config))

    def suggested(**changes: object) -> set[str]:
        return set(suggest(optuna.trial.FixedTrial(start | changes), space(data, config)))  # type: ignore[arg-type]

    assert suggested(gate="learned") == set(start)
    assert set(start) - suggested(gate="learned", modalities="text") == {
        "fusion",
        "modality_dropout",
        "input_dropout.speech",
        "expert_rates.speech",
    }
    for gate in ("fitted", "mean"):
        assert set(start) - suggested(gate=gate) == {"gate_temperature"}
    single = open_embeddings(write_embeddings(tmp_path, ("text",)))
    names = {dimension.name for dimension in space(single, config)}
    assert "learning_rate" in names and not names & {"fusion", "modality_dropout", "gate_temperature", "modalities"}


def test_space_of_many_modalities_limits_the_subsets() -> None:
    names = ("a", "b", "c", "d", "e")
    data = EmbeddedDialogues({}, {name: np.zeros((1, 2), np.float32) for name in names}, ["no", "yes"])
    (subsets,) = (one.choices for one in space(data, MixtureConfig()) if one.name == "modalities")
    assert len(subsets) == 11 and subsets[0] == "a+b+c+d+e" and set(names) < set(subsets)


@pytest.mark.long
def test_trial_with_a_modality_subset_uses_only_that(folder: Path) -> None:
    data = open_embeddings(folder)
    config = load_profile("tiny", ["mixture.epochs=2", "mixture.modalities=[text]"]).mixture
    alone = data.only(["text"])
    scored = [HeldOut(one, 1, 0, 0).score(config, lambda step, value: None) for one in (data, alone)]
    assert np.array_equal(scored[0].predicted, scored[1].predicted) and scored[0].value == scored[1].value


# Cross-validation


def test_each_fold_is_predicted_by_a_model_that_has_not_seen_it(folder: Path) -> None:
    data = open_embeddings(folder)
    held_out = HeldOut(data, 2, 4, 0)
    everything = {one.dialogue_id for split in ("train", "dev") for one in data.split(split)}  # type: ignore[arg-type]
    rounds = []
    for repetition in range(2):
        predicted = []
        for fold, indices in held_out._folds(held_out.data, repetition):
            own = {held_out.dialogues[index].dialogue_id for index in indices}
            train, dev = ({one.dialogue_id for one in fold.split(split)} for split in ("train", "dev"))  # type: ignore[arg-type]
            assert train and dev and not own & (train | dev) and not train & dev
            assert own | train | dev == everything and not fold.split("test")
            predicted.append(own)
        assert set().union(*predicted) == everything and sum(map(len, predicted)) == len(everything)
        rounds.append(predicted)
    assert rounds[0] != rounds[1]


@pytest.mark.long
def test_cross_validated_search_scores_all_dialogues_and_reports_each_fold(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    result = search(data, tmp_path, 2, folds=3, seeds=2)
    assert "train and dev are" in result.finding or "no settings" in result.finding
    assert list(stored_study(tmp_path).trials[0].intermediate_values) == [1, 2, 3]
    assert search(data, tmp_path, 2, folds=3, seeds=2) == result
    with pytest.raises(UsageError, match="other embeddings or settings"):
        search(data, tmp_path, 2, folds=4, seeds=2)


@pytest.mark.parametrize("folds", [1, 2, 25])
def test_impossible_number_of_folds_is_rejected(folder: Path, folds: int) -> None:
    with pytest.raises(UsageError, match=f"--folds {folds}: use 0 for none, or 3 to 24"):
        HeldOut(open_embeddings(folder), 1, folds, 0)


# Command


@pytest.mark.long
def test_printed_train_command_is_valid(folder: Path, tmp_path: Path) -> None:
    arguments = ["tune", "--embeddings", str(folder), "--profile", "tiny", "--set", "mixture.epochs=2"]
    done = CliRunner().invoke(app, [*arguments, "--trials", "2", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "tune.json").read_text())
    line = next(line for line in done.output.splitlines() if line.startswith("mistere train"))
    words = shlex.split(line)
    settings = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    mixture = load_profile("tiny", settings).mixture
    assert ("train with the best settings" in done.output) == ("gain" in result)
    for name, value in result["settings"].items() if "gain" in result else ():
        assert getattr(mixture, name) == value
    assert mixture.epochs == 2 and re.search(r"dev weighted F1 0\.\d{3}", done.output)
    assert not re.search(r"\d\.\d{6,}", done.output) and "dev is too small to choose by: 6 dialogues" in done.output
    assert result["finding"] in done.output
    assert (tmp_path / "best.yaml").read_text().startswith("mixture:")
    first = CliRunner().invoke(app, [*arguments, "--trials", "1", "--output", str(tmp_path / "first")])
    assert first.output.endswith(
        f"train with the initial settings:\nmistere train --embeddings {folder} --profile tiny --set mixture.epochs=2\n"
    )
