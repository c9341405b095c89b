"""The summary at the end of a run."""

from __future__ import annotations

import pytest

from mistere.runs.outcome import Outcome
from pipelines.cli.output.run_display import summary


@pytest.mark.parametrize(
    ("uri", "phrase"),
    [
        ("http://mlflow.example.org:5000", "http://mlflow.example.org:5000"),
        ("https://me:secret-word@mlflow.example.org", "https://mlflow.example.org"),
        ("sqlite:////srv/my runs/mlflow.db", "mlflow ui --backend-store-uri 'sqlite:////srv/my runs/mlflow.db'"),
    ],
)
def test_the_registry_is_a_servers_page_or_the_command_that_serves_a_database(
    uri: str, phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow refuses a server as a backend store: ``mlflow ui`` serves databases and folders."""
    summary(Outcome(run_id="run", mlflow=uri), None, "log")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("registry")] == [f"registry {phrase}"]
