"""Progress of a run as JSON lines: written by stages, read by the progress display.

Stages append to the file that ``MISTERE_EVENTS`` names (``mistere run`` sets it), and otherwise print plain lines to
standard output, which a cluster's logs collect.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
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


@dataclass
class Progress:
    """Reports the progress of one task, at most four times a second, so that a fast loop can call it every step."""

    task: str
    _last: float = 0.0

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        """Report the progress of the task.

        Args:
            message: the unit and the latest metric, for example ``epoch 3/8, dev weighted F1 0.58``.
            done: completed amount.
            total: total amount; 0 if unknown.
        """
        now = time.monotonic()
        if now - self._last < 0.25 and (not total or done < total):
            return
        self._last = now
        emit("progress", task=self.task, message=message, done=done, total=total)

    def note(self, message: str) -> None:
        """Record a message for the summary of the run."""
        emit("note", task=self.task, message=message)
