"""The commands to use after a release; they work as they stand, in the terminal that shows them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from mistere.common.processes.command_line import shell_word
from mistere.reports.mlflow_page import RunsPage
from mistere.runs.outcome import Outcome

DEFAULT_SERVICE = "mistere"
_WRITTEN = """echo '[{"text": "Where have you been?"}, {"text": "At home, why?"}]' > dialogue.json && """
"""Writes a dialogue, for a bundle without an example."""


def program(outcome: Outcome, name: str = "mistere", *, relative: bool = False) -> str:
    """The command ``mistere``, or another one of this environment, as a shell finds it.

    Args:
        outcome: of the run; a run on a cluster is read elsewhere, where only the name is known.
        name: the command's name.
        relative: whether a path may be relative to the current folder.
    """
    installed = Path(sys.executable).with_name(name)
    if outcome.on_cluster or shutil.which(name) or not installed.is_file():
        return name
    return shell_word(os.path.relpath(installed) if relative else str(installed))


def serve_command(outcome: Outcome, *, output: str = "", relative: bool = False) -> str:
    """Serve the model on this machine.

    Args:
        outcome: of the run.
        output: the output directory, if its deployment is served instead of the run's bundle.
        relative: see :func:`program`.
    """
    parts = [program(outcome, relative=relative), "serve"]
    if output:
        parts += ["--output", shell_word(output)] if output != "output" else []
    else:
        parts += [shell_word(outcome.bundle)]
    return " ".join(parts)


def ask_command(outcome: Outcome, url: str = "", *, model: str = "", relative: bool = False) -> str:
    """Send the example dialogue of the bundle to a predictor.

    Args:
        outcome: of the run.
        url: of the predictor; empty for the default of ``mistere predict``.
        model: the model's name, if it is not the default.
        relative: see :func:`program`.
    """
    parts = [
        program(outcome, relative=relative),
        "predict",
        "--dialogue",
        shell_word(outcome.example or "dialogue.json"),
    ]
    parts += ["--url", shell_word(url)] if url else []
    parts += ["--model", shell_word(model)] if model not in {"", DEFAULT_SERVICE} else []
    return ("" if outcome.example else _WRITTEN) + " ".join(parts)


def decide_command(outcome: Outcome, decision: str, *, output: str = "", relative: bool = False) -> str:
    """Decide on the candidate of a run.

    Args:
        outcome: of the run.
        decision: ``approve`` or ``reject``.
        output: the output directory, if it is not the default one.
        relative: see :func:`program`.
    """
    parts = [program(outcome, relative=relative), decision, shell_word(outcome.candidate), "--reason", "'…'"]
    return " ".join(parts + (["--output", shell_word(output)] if output not in {"", "output"} else []))


def page_command(outcome: Outcome, page: RunsPage, *, relative: bool = False) -> str:
    """Start the server of MLflow's page; empty if a server runs already.

    Args:
        outcome: of the run.
        page: the page with the runs.
        relative: see :func:`program`.
    """
    return f"{program(outcome, 'mlflow', relative=relative)} {page.arguments}" if page.arguments else ""
