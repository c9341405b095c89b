"""The summary at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.runs.outcome import Outcome
from pipelines.cli.output.run_display import summary


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
