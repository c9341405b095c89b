"""``mistere doctor``: a line a check, how to mend what fails, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from mistere.common.errors import ExitCode
from pipelines.cli.doctor.checks import examination
from pipelines.cli.doctor.plan import make_plan

_COLOURS = {"ok": "green", "note": "yellow", "failed": "bold red", "skipped": "dim"}


def doctor(profile: str, settings: Sequence[str], host: str | None, store: str | None, tracking: str | None) -> int:
    """Make every check and say what it found.

    Args:
        profile: settings to start from.
        settings: ``--set`` on top.
        host: of Kubeflow Pipelines; None for the environment's or the profile's, as for the others.
        store: ``s3://…`` or a folder.
        tracking: the MLflow server.

    Returns:
        The exit code: 0 where nothing that a run needs failed, else 1.
    """
    plan = make_plan(profile, settings, host, store, tracking)
    console = Console(highlight=False, soft_wrap=True)
    counted: Counter[str] = Counter()
    for name, findings in examination(plan):
        console.print(Text(name, style="bold"))
        for check, finding in findings:
            counted[finding.status] += 1
            because = "because " if finding.status == "skipped" else ""
            line = Text("  ")
            line.append(f"{finding.status:<8}", style=_COLOURS[finding.status])
            console.print(line.append(f"{check}: {because}{finding.sentence}"))
    console.print()
    console.print(", ".join(f"{counted[status]} {status}" for status in _COLOURS if counted[status]) + ".")
    return int(ExitCode.ERROR) if counted["failed"] else 0
