"""Terminal display of a run: a live table on a terminal, one line per event otherwise, and the final summary."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mistere.common.names import terminal_text
from mistere.reports.mlflow_page import runs_page
from mistere.reports.next_commands import ask_command, decide_command, page_command, serve_command
from mistere.runs.outcome import EXIT_HANDLER, Estimate, Outcome
from mistere.runs.tasks import ordered_tasks
from pipelines.cli.output.console import OutputConsole, print_text

_MARKS = {"done": ("✔", "green"), "reused": ("↺", "cyan"), "failed": ("✘", "red"), "running": ("…", "yellow")}
_WORDS = {"done": "done", "reused": "found finished", "failed": "FAILED"}


class Display:
    """Shows events as they arrive; a context manager.

    Args:
        starts: whether to print a line when a step starts, without a terminal.
    """

    def __init__(self, *, starts: bool = False) -> None:
        self._starts = starts
        self._console = OutputConsole(file=sys.stdout, highlight=False)
        self._tasks: dict[str, dict[str, Any]] = {}
        self._live = (
            Live(get_renderable=self._table, console=self._console, refresh_per_second=4)
            if self._console.is_terminal
            else None
        )

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event."""
        task = self._tasks.setdefault(event["task"], {"status": "running", "since": event["time"]})
        kind = event["event"]
        if kind == "started":
            self._tasks[event["task"]] = {"status": "running", "since": event["time"]}  # maybe a further attempt
            if self._starts and not self._live:
                print_text(f"{event['task']:<28} started")
        elif kind == "progress":
            task.update(message=event["message"], done=event["done"], total=event["total"])
        elif kind == "note":
            self.say(f"  {event['task']}: {event['message']}")
        elif kind in _WORDS:
            task.update(status=kind, seconds=event["seconds"], message=event["message"] or "")
            if not self._live:
                detail = f": {event['message']}" if event["message"] else ""
                print_text(f"{event['task']:<28} {_WORDS[kind]:<15} {event['seconds']:6.1f} s{detail}")

    def report_running(self) -> None:
        """Print how far each running step is, without a terminal; the table on a terminal shows it anyway."""
        if self._live:
            return
        for name in (*ordered_tasks(list(self._tasks)), EXIT_HANDLER):
            task = self._tasks.get(name)
            if task is not None and task["status"] == "running":
                seconds = time.time() - task["since"]
                detail = _progress_text(task)
                print_text(f"{name:<28} {'running':<15} {seconds:6.1f} s{f': {detail}' if detail else ''}")

    def say(self, sentence: str) -> None:
        """Show a sentence above the steps."""
        self._console.print(Text(sentence, style="dim"), soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name in (
            *ordered_tasks(list(self._tasks)),
            EXIT_HANDLER,
        ):  # called by the live display's thread, four times a second
            task = self._tasks.get(name)
            if task is None:
                table.add_row(Text("·", style="dim"), Text(name, style="dim"), "", "")
                continue
            mark, style = _MARKS[task["status"]]
            seconds = task.get("seconds", time.time() - task["since"])
            detail: Any = Text(terminal_text(task.get("message", "")), style="dim", overflow="ellipsis", no_wrap=True)
            if task["status"] == "running" and task.get("total"):
                detail = Table.grid(padding=(0, 1))
                detail.add_row(
                    ProgressBar(total=task["total"], completed=task["done"], width=24),
                    Text(terminal_text(task["message"]), style="dim"),
                )
            table.add_row(Text(mark, style=style), name, f"{seconds:6.1f} s", detail)
        return table


def _progress_text(task: dict[str, Any]) -> str:
    """The latest message of a running step, and its share of the whole if that is known."""
    message, total = str(task.get("message") or ""), task.get("total") or 0
    share = f"{100 * min(1.0, task['done'] / total):.0f} %" if total else ""
    return f"{message} ({share})" if message and share else message or share


def summary(outcome: Outcome, output: Path | None, log: Path | str | None) -> None:
    """Print how a run ended and which commands to use next.

    Args:
        outcome: outcome of the run.
        output: output directory of ``mistere run``; None for a run on a cluster.
        log: log file of KFP and the stages, or the URL of the run's page; None if unknown.
    """
    console = OutputConsole(file=sys.stdout, highlight=False, soft_wrap=True, emoji=False)
    console.print()
    green = dict.fromkeys(("deployed", "scored", "monitored"), "bold green")
    style = {**green, "held": "bold yellow", "waiting": "bold yellow"}.get(outcome.verdict, "bold red")
    console.print(Text(f"{outcome.verdict.upper()}", style=style))
    for reason in outcome.reasons:
        console.print(f"  {reason}", markup=False)
    if outcome.message:
        console.print(f"  {outcome.message}", markup=False)
    for sentence in outcome.unreadable:
        console.print(f"  {sentence}", markup=False)
    if outcome.weighted_f1:
        console.print("\nWeighted F1 on the test split (95 % interval)")
        console.print(f"  {'mixture':<18} {_interval(outcome.weighted_f1)}", markup=False)
        for expert, estimate in outcome.experts.items():
            console.print(f"  {expert.replace('_', '-') + ' alone':<18} {_interval(estimate)}", markup=False)
        if outcome.champion_weighted_f1:
            other = "teacher" if outcome.teacher else "champion before"
            console.print(f"  {other:<18} {_interval(outcome.champion_weighted_f1)}", markup=False)
        if outcome.champion_difference:
            difference = outcome.champion_difference
            change = "none" if difference.exactly_zero else _interval(difference, "+z.3f")
            console.print(f"  {'difference, paired':<18} {change}", markup=False)
    console.print(f"\nreport   {outcome.report}", markup=False)
    if outcome.bundle:
        console.print(f"bundle   {outcome.bundle}", markup=False)
    if outcome.mlflow:
        page = runs_page(outcome.mlflow, outcome.experiment)
        if command := page_command(outcome, page, relative=True):
            console.print(f"registry {command}", markup=False)
            console.print(f"         and open {page.url}", markup=False)
        else:
            console.print(f"registry {page.url}", markup=False)
    if log is not None:
        console.print(f"log      {log}", markup=False)
    folder = "" if output is None else "output" if output == Path("output").resolve() else str(output)
    if outcome.candidate:
        console.print(f"\napprove  {decide_command(outcome, 'approve', output=folder, relative=True)}", markup=False)
        console.print(f"reject   {decide_command(outcome, 'reject', output=folder, relative=True)}", markup=False)
    if outcome.verdict == "deployed":
        console.print(f"\nserve it {serve_command(outcome, output=folder, relative=True)}", markup=False)
        console.print(f"ask it   {ask_command(outcome, relative=True)}", markup=False)


def _interval(estimate: Estimate, form: str = ".3f") -> str:
    text = f"{estimate.value:{form}}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text}  [{estimate.low:{form}}, {estimate.high:{form}}]"
