"""``mistere train`` from the command line: table, files, resumption and rejected arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mistere.reports.evaluation_view import GATE_WORDS
from pipelines.cli.commands import train as train_command
from tests.unit.artifacts.embeddings_folder import LABELS, write_embeddings

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TINY = ["--profile", "tiny", "--set", "mixture.epochs=3", "--set", "evaluation.resamples=200"]


def command(embeddings: Path, output: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "mistere", "train",
        "--embeddings", str(embeddings), "--output", str(output), *TINY, *arguments,
    ]  # fmt: skip


def train(embeddings: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(embeddings, output, *arguments), capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )


@pytest.mark.long
def test_train_supports_a_third_modality_seeds_and_ablations(tmp_path: Path) -> None:
    source = write_embeddings(tmp_path / "made elsewhere", ("speech", "text", "visual"))
    chosen = "mixture.modalities=[speech,text,visual]"
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = train(
        source, tmp_path / "out", "--seeds", "2", "--set", chosen,
        "--ablate", "gate,context,modality_dropout", "--track", tracking,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json", "model", "predictions.parquet", "report.html", "training.json",
    }  # fmt: skip
    for shown in (
        "mixture",
        "visual alone",
        "cross-modal alone",
        "late fusion",
        *LABELS,
        "mean weight",
        "no dialogue context",
    ):
        assert shown in done.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test.weighted_f1.low"] <= metrics["test.weighted_f1"] <= metrics["test.weighted_f1.high"]
    each = [seed["test.weighted_f1"] for seed in metrics["seeds"]]
    assert metrics["test.weighted_f1"] == pytest.approx(np.mean(each)) and len(each) == 2
    assert metrics["test.weighted_f1.std"] == pytest.approx(np.std(each, ddof=1))
    weights = [metrics[f"test.gate.{name}.mean"] for name in ("speech", "text", "visual", "cross_modal")]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    for name in ("auc", "leader_right", "average_right", "most_confident_right", "text.auc", "text.confidence_auc"):
        assert 0 <= metrics[f"test.gate.{name}"] <= 1
    assert [row["name"] for row in metrics["ablation"]] == ["gate", "context", "modality_dropout"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page and "src=" not in page and "with modality dropout" in page
    assert "AUC of its weight" in page and "AUC of trust is" in page
    assert "from that of the plain mean of its experts by" in page and "from that of its best expert (" in done.stdout
    assert page.count("<svg") >= 6 and 'class="turns' in page

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking)
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    history = client.get_metric_history(runs[0].info.run_id, "train_moe.gate.entropy")
    assert [point.step for point in history] == [1, 2, 3]


@pytest.mark.long
def test_train_supports_text_only_and_selected_modalities(tmp_path: Path) -> None:
    source = write_embeddings(tmp_path / "text", ("text",))
    assert train(source, tmp_path / "one").returncode == 0
    both = write_embeddings(tmp_path / "both")
    done = train(both, tmp_path / "two", "--set", "mixture.modalities=[speech]")
    assert done.returncode == 0 and "text alone" not in done.stdout
    automatic = json.loads((tmp_path / "two" / "metrics.json").read_text())["automatic"]
    assert "input_dropout" in automatic and "learning_rate" not in automatic  # the profile states that one
    shown = f"input_dropout {automatic['input_dropout']:g}"
    assert shown in done.stdout and shown in (tmp_path / "two" / "report.html").read_text()
    assert json.loads((tmp_path / "two" / "model" / "mixture.json").read_text())["dimensions"] == {"speech": 8}
    wrong = train(both, tmp_path / "three", "--set", "mixture.modalities=[txt]")
    assert wrong.returncode == 2 and "did you mean 'text'" in wrong.stderr and not (tmp_path / "three").exists()


def test_the_command_names_columns_of_wild_scale_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_embeddings(tmp_path / "embeddings")
    rows = np.load(source / "speech.npy")
    rows[:, 0] *= 1e4
    np.save(source / "speech.npy", rows)
    settings = ["standardise=false", "modalities=auto", "epochs=1", "gate=mean"]
    train_command.train(source, "tiny", [f"mixture.{one}" for one in settings], 2, [], tmp_path / "out", None)
    output = tmp_path / "out"
    metrics, page = json.loads((output / "metrics.json").read_text()), (output / "report.html").read_text()
    (note,) = metrics["notes"]
    assert note.startswith("speech: the standard deviations of its columns differ by a factor of ")
    printed = capsys.readouterr().out
    assert "set mixture.standardise=true" in note and printed.count(note) == page.count(note) == 1
    assert "AUC of its weight" in printed and "AUC of trust is" in printed and GATE_WORDS in " ".join(printed.split())
    assert "event=" not in printed and "task=" not in printed
    brings = metrics["modalities"]["brings"]  # all modalities minus those without this one
    assert brings.keys() == {"speech", "text"} and all(
        name in page for name in ("brought by speech", "brought by text")
    )
    (text,) = (one for one in metrics["modalities"]["subsets"] if one["modalities"] == ["text"])
    assert brings["speech"] == [-value for value in (text["difference"][index] for index in (0, 2, 1))]


@pytest.mark.long
def test_killed_training_resumes_to_the_same_result(tmp_path: Path) -> None:
    source = write_embeddings(tmp_path / "embeddings")
    more = ["--seeds", "2", "--set", "mixture.epochs=25", "--set", "mixture.patience=25"]
    assert train(source, tmp_path / "whole", *more).returncode == 0
    output = tmp_path / "killed"
    running = subprocess.Popen(command(source, output, *more), stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    while running.poll() is None and not list(output.glob("checkpoints/*/*/epoch")):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (output / "metrics.json").exists()
    other = train(source, output, *more, "--set", "mixture.hidden=12")
    assert other.returncode == 2 and "unfinished training with other settings" in other.stderr
    assert train(source, output, *more).returncode == 0
    assert (output / "metrics.json").read_text() == (tmp_path / "whole" / "metrics.json").read_text()
    weights = "model/mixture.safetensors"
    assert (output / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ablate", "gat"], "did you mean 'gate'"),
        pytest.param(["--set", "mixture.hiden=3"], "did you mean 'hidden'", marks=pytest.mark.long),
        pytest.param(["--embeddings", "nowhere"], "no such folder", marks=pytest.mark.long),
    ],
)
def test_invalid_arguments_are_rejected_before_writing(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = train(write_embeddings(tmp_path / "embeddings"), tmp_path / "out", *arguments)
    assert done.returncode == 2 and sentence in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.long
def test_checkpoint_of_another_shape_is_rejected(tmp_path: Path) -> None:
    from mistere.artifacts.checkpoints import Checkpoints
    from mistere.artifacts.object_store import LocalStore
    from mistere.common.errors import UsageError
    from mistere.common.progress import Progress
    from mistere.config.mixture import MixtureConfig
    from mistere.model.mixture.training import train_mixture
    from pipelines.cli.experiments.imported_embeddings import open_embeddings

    data = open_embeddings(write_embeddings(tmp_path / "embeddings"))
    small = MixtureConfig(hidden=4, gru_layers=1, fusion="feed_forward", fusion_width=8, epochs=1, learning_rate=1e-3)
    checkpoints = Checkpoints(LocalStore(tmp_path / "store"), "train_moe", "key")
    train_mixture(small, data, progress=Progress("train_moe"), checkpoints=checkpoints)
    before = (checkpoints.directory / "epoch").read_bytes()
    larger = small.model_copy(update={"hidden": 6})
    with pytest.raises(UsageError, match="of a model of another shape"):
        train_mixture(larger, data, progress=Progress("train_moe"), checkpoints=checkpoints)
    assert (checkpoints.directory / "epoch").read_bytes() == before
