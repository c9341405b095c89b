"""Progress of a run as JSON lines: written by stages, read by the progress display.

Stages append to the file that ``MISTERE_EVENTS`` names (``mistere run`` sets it), and otherwise print plain lines to
standard output, which a cluster's logs collect.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mistere.common.secrets.redaction import redact

AFFECTS_RESULTS = False
"""How progress is shown changes no result."""

EVENTS_VARIABLE = "MISTERE_EVENTS"


def emit(event: str, **fields: Any) -> None:
    """Record one event: ``started``, ``reused``, ``progress``, ``done``, ``failed``, ``note``."""
    shown = {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
    record = {"event": event, "time": time.time(), **shown}
    target = os.environ.get(EVENTS_VARIABLE)
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return
    print(" ".join(f"{key}={value}" for key, value in record.items() if key != "time"), file=sys.stdout, flush=True)


PLAIN_SECONDS = 15.0
"""Time between two plain lines about one task, where no display replaces the line before."""


class RemainingTime:
    """Estimates how long a task still takes, from what has been done since it started or resumed."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def __call__(self, done: float, total: float) -> str:
        """The remaining time in words; empty as long as nothing is known.

        Args:
            done: completed amount; the first call sets the start.
            total: total amount; 0 if unknown.
        """
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        began, before = self._start
        if done <= before or not total:
            return ""
        seconds = (now - began) / (done - before) * max(0.0, total - done)
        if seconds < 90:
            return f"{seconds:.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass
class Progress:
    """Reports the progress of one task, so that a fast loop can call it every step.

    At most four times a second for a display, and as a plain line, with the time that is left, at most every 15 seconds.
    """

    task: str
    _last: float = -PLAIN_SECONDS
    _remaining: RemainingTime = field(default_factory=RemainingTime)

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        """Report the progress of the task.

        Args:
            message: the unit and the latest metric, for example ``epoch 3/8, dev weighted F1 0.58``.
            done: completed amount.
            total: total amount; 0 if unknown.
        """
        plain = EVENTS_VARIABLE not in os.environ
        left = self._remaining(done, total) if plain else ""
        now = time.monotonic()
        if now - self._last < (PLAIN_SECONDS if plain else 0.25) and (not total or done < total):
            return
        self._last = now
        if left:
            message += f", at most {left} left"
        emit("progress", task=self.task, message=message, done=done, total=total)

    def note(self, message: str) -> None:
        """Record a message for the summary of the run."""
        emit("note", task=self.task, message=message)
