"""The page of MLflow's user interface that shows the runs, and the command that serves it."""

from __future__ import annotations

from dataclasses import dataclass

from mistere.common.processes.command_line import command_line
from mistere.common.urls import redact_url

_LOCAL_SERVER = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` listens by default."""


@dataclass(frozen=True)
class RunsPage:
    """Where a user sees the runs.

    Attributes:
        url: the page; empty if the tracking URI has no page of MLflow.
        arguments: of the program ``mlflow``, which start the server of the page; empty if a server runs already.
    """

    url: str
    arguments: str


def runs_page(tracking_uri: str, experiment_id: str) -> RunsPage:
    """The page with the runs of an experiment.

    MLflow 3 opens its start page, and an experiment, with a view for language models, unless the address says otherwise.

    Args:
        tracking_uri: of the MLflow server or database; credentials are removed.
        experiment_id: MLflow's id of the experiment; empty if unknown.
    """
    shown = redact_url(tracking_uri).rstrip("/")
    serves = shown.startswith(("http://", "https://"))
    page = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning" if experiment_id else ""
    if serves:
        return RunsPage(f"{shown}{page}", "")
    return RunsPage(f"{_LOCAL_SERVER}{page}", command_line("ui", "--backend-store-uri", shown))
