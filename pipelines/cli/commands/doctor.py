"""``mistere doctor``: a line per check, how to fix what fails, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from mistere.common.errors import ExitCode
from pipelines.cli.doctor.checks import run_checks
from pipelines.cli.doctor.plan import make_plan
from pipelines.cli.output.console import OutputConsole

_COLOURS = {"ok": "green", "note": "yellow", "failed": "bold red", "skipped": "dim"}


def doctor(
    profile: str,
    settings: Sequence[str],
    host: str | None,
    store: str | None,
    tracking: str | None,
    pipeline: str = "retraining",
) -> int:
    """Run every check and print its result.

    Args:
        profile: settings to start from.
        settings: ``--set`` on top.
        host: of Kubeflow Pipelines; None, here and below, for the environment's or the profile's.
        store: ``s3://…`` or a folder.
        tracking: the MLflow server.
        pipeline: the pipeline to run.

    Returns:
        The exit code: 0 if no check failed, 2 if the deployment cannot hold its bundle, else 1.
    """
    plan = make_plan(profile, settings, host, store, tracking, pipeline)
    console = OutputConsole(highlight=False, soft_wrap=True)
    counted: Counter[str] = Counter()
    codes = {ExitCode.DEPLOYED}
    for name, results in run_checks(plan):
        console.print(Text(name, style="bold"))
        for check, result in results:
            counted[result.status] += 1
            if result.status == "failed":
                codes.add(result.exit_code)
            because = "because " if result.status == "skipped" else ""
            line = Text("  ")
            line.append(f"{result.status:<8}", style=_COLOURS[result.status])
            console.print(line.append(f"{check}: {because}{result.sentence}"))
    console.print()
    console.print(", ".join(f"{counted[status]} {status}" for status in _COLOURS if counted[status]) + ".")
    return int(max(codes))
