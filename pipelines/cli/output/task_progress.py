"""Progress of a task of a command on standard error: a bar on a terminal, otherwise a line every 15 seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from mistere.common.progress import PLAIN_SECONDS
from pipelines.cli.output.console import OutputConsole

OnProgress = Callable[[str, float, float], None]
"""Called with the unit, the completed amount and the total amount (0 if unknown)."""


@contextmanager
def task_progress(task: str, seconds: float = PLAIN_SECONDS) -> Iterator[OnProgress]:
    """Show that a task is running, and how far it is.

    A line appears also while nothing is reported, so that a log shows that the command is alive.

    Args:
        task: what is being done, for example ``reading the dataset``.
        seconds: between two lines.

    Yields:
        A function that reports the progress; it may be left unused.
    """
    if sys.stderr.isatty():
        own = sys.stdout.isatty()  # standard output that goes to a file must not be moved above the bar
        with Progress(transient=True, console=OutputConsole(stderr=True), redirect_stdout=own) as bar:
            shown = bar.add_task(task, total=None)

            def advance(_unit: str, done: float, total: float) -> None:
                bar.update(shown, completed=done, total=total or None)

            yield advance
        return
    latest: list[tuple[float, float]] = [(0.0, 0.0)]
    ended = threading.Event()
    started = time.monotonic()

    def record(_unit: str, done: float, total: float) -> None:
        latest[0] = (done, total)

    def report() -> None:
        while not ended.wait(seconds):
            done, total = latest[0]
            share = f", {100 * min(1.0, done / total):.0f} %" if total else ""
            print(f"{task}: {time.monotonic() - started:.0f} s{share}", file=sys.stderr, flush=True)

    threading.Thread(target=report, name="progress", daemon=True).start()
    try:
        yield record
    finally:
        ended.set()
