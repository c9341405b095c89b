"""``mistere tune`` uses dev only, can be resumed and is reproducible."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner

from mistere.common.errors import UsageError
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from pipelines.cli.app import app
from pipelines.cli.experiments.imported_embeddings import open_embeddings
from pipelines.cli.experiments.tuning import STUDY_FILE, Tuned, space, tune
from pipelines.profiles import load_profile
from tests.unit.artifacts.embeddings_folder import write_embeddings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embeddings(tmp_path_factory.mktemp("embeddings"))


def search(data: EmbeddedDialogues, output: Path, trials: int = 3, *settings: str) -> Tuned:
    config = load_profile("tiny", ["mixture.epochs=2", *settings]).mixture
    return tune(config, data, output, trials=trials, seeds=1, timeout_minutes=None, on_trial=lambda text: None)


def scores(output: Path) -> list[tuple[dict[str, object], float | None]]:
    (name,) = optuna.get_all_study_names(f"sqlite:///{output / STUDY_FILE}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{output / STUDY_FILE}")
    return [(trial.params, trial.value) for trial in study.trials]


def test_search_is_reproducible_and_does_not_read_the_test_split(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    result = search(data, tmp_path / "one")
    assert result.trials == 3 and result.dev_weighted_f1 >= result.start
    splits = {name: data.split(name) for name in ("train", "dev")}  # type: ignore[arg-type]
    spoiled = [EmbeddedDialogue(d.dialogue_id, d.rows, (d.labels + 1) % 3) for d in data.split("test")]
    matrices = {name: data._matrices[name] for name in data.dimensions}
    other = EmbeddedDialogues({**splits, "test": spoiled}, matrices, data.labels)
    assert search(other, tmp_path / "two") == result
    assert scores(tmp_path / "one") == scores(tmp_path / "two")


def test_search_resumes_from_saved_trials(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    search(data, tmp_path, 2)
    before = scores(tmp_path)
    (name,) = optuna.get_all_study_names(f"sqlite:///{tmp_path / STUDY_FILE}")
    optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / STUDY_FILE}").ask()  # as after a kill
    result = search(data, tmp_path, 4)
    after = scores(tmp_path)
    assert result.trials == 4 and after[:2] == before and len(after) == 5 and after[2][1] is None
    assert len({str(params) for params, value in after if value is not None}) == 4
    assert search(data, tmp_path, 4) == result


def test_different_search_in_the_same_folder_is_rejected(folder: Path, tmp_path: Path) -> None:
    data = open_embeddings(folder)
    search(data, tmp_path, 1)
    with pytest.raises(UsageError, match="other embeddings or settings"):
        search(data, tmp_path, 1, "mixture.gru_layers=2")


def test_single_modality_search_omits_multimodal_settings(tmp_path: Path) -> None:
    data = open_embeddings(write_embeddings(tmp_path, ("text",)))
    names = {dimension.name for dimension in space(data)}
    assert "learning_rate" in names and not names & {"fusion", "modality_dropout", "gate_temperature"}


def test_printed_train_command_is_valid(folder: Path, tmp_path: Path) -> None:
    arguments = ["tune", "--embeddings", str(folder), "--profile", "tiny", "--set", "mixture.epochs=2"]
    done = CliRunner().invoke(app, [*arguments, "--trials", "2", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "tune.json").read_text())
    line = next(line for line in done.output.splitlines() if line.startswith("mistere train"))
    words = shlex.split(line)
    settings = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
    mixture = load_profile("tiny", settings).mixture
    for name, value in result["settings"].items():
        assert getattr(mixture, name) == value
    assert mixture.epochs == 2 and re.search(r"dev weighted F1 0\.\d{3}", done.output)
    assert (tmp_path / "best.yaml").read_text().startswith("mixture:")
