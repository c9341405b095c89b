"""The summary at the end of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.io import publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import UsageError
from mistere.data.dataset import Utterance
from mistere.reports.next_commands import ask_command
from mistere.runs.outcome import Outcome
from mistere.serving.example_dialogue import DIALOGUE, Example, local_example, write_example
from pipelines.cli.commands.predict import read_dialogue
from pipelines.cli.output.run_display import summary
from tests.unit.runs.recorded_run import EXPERTS, RecordedRun


@pytest.mark.parametrize(
    ("uri", "command", "page"),
    [
        ("http://mlflow.example.org:5000/", "", "http://mlflow.example.org:5000"),
        ("https://me:secret-word@mlflow.example.org/team", "", "https://mlflow.example.org/team"),
        (
            "sqlite:////srv/my runs/mlflow.db",
            "mlflow ui --backend-store-uri 'sqlite:////srv/my runs/mlflow.db'",
            "http://127.0.0.1:5000",
        ),
    ],
)
def test_the_registry_is_the_page_of_the_runs_and_the_command_that_serves_a_database(
    uri: str, command: str, page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow refuses a server as a backend store: ``mlflow ui`` serves databases and folders."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    # the route and the query are those of mlflow/server/js/build, 3.17.2: without workflowType, the pages for language models open
    page += "/#/experiments/7/runs?workflowType=machine_learning"
    summary(Outcome(run_id="run", mlflow=uri, experiment="7"), None, "log")
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("registry"))
    printed = [line[len("registry ") :] for line in lines[start : start + 2 if command else start + 1]]
    assert printed == ([command, f"and open {page}"] if command else [page])


def test_the_command_of_the_registry_is_that_beside_mistere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("mistere", "mlflow"):
        (tmp_path / name).touch()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path.parent)
    summary(Outcome(run_id="run", mlflow="sqlite:///mlflow.db"), None, "log")
    assert f"registry {tmp_path.name}/mlflow ui --backend-store-uri sqlite:///mlflow.db" in capsys.readouterr().out


def test_the_example_of_a_bundle_in_s3_can_be_asked(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that a report of a cluster shows works as it stands."""
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    run = RecordedRun(tmp_path / "run")
    (tmp_path / "making").mkdir()
    write_example(
        tmp_path / "making", Example([Utterance("d", 0, "", "Where?", None)], np.ones((1, 7), np.float32) / 7)
    )
    bundle = ModelBundle(name="mistere", labels=run.labels, experts=EXPERTS, encoders={}, temperature=1.0, test_digest="t" * 64,
        metrics={}, dvc_digest="0783")  # fmt: skip
    digest = publish(s3_store, bundle, tmp_path / "making").digest
    outcome = Outcome(
        run_id="run", verdict="deployed", on_cluster=True, endpoint="http://moods.example",
        example=s3_store.location(f"artifacts/ModelBundle/{digest}/{DIALOGUE}"),
    )  # fmt: skip
    command = ask_command(outcome, outcome.endpoint, model="moods")
    assert command == f"mistere predict --dialogue {outcome.example} --url http://moods.example --model moods"
    assert [turn.text for turn in read_dialogue(local_example(outcome.example))] == ["Where?"]
    with pytest.raises(
        UsageError, match="is not the example of a bundle: name STORE/artifacts/ModelBundle/DIGEST/example"
    ):
        local_example("s3://mistere-tests/dialogue.json")
