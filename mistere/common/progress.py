"""Progress of a run as JSON lines: written by stages, read by whoever shows it.

Stages write to the file named by ``MISTERE_EVENTS`` when it is set (``mistere run`` sets it), and to standard output as
plain lines otherwise, which is where a cluster's logs look.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AFFECTS_RESULTS = False
"""How progress is shown changes no result."""

EVENTS_VARIABLE = "MISTERE_EVENTS"


def emit(event: str, **fields: Any) -> None:
    """Record one event: ``started``, ``reused``, ``progress``, ``done``, ``failed``, ``note``."""
    record = {"event": event, "time": time.time(), **fields}
    target = os.environ.get(EVENTS_VARIABLE)
    if target:
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        return
    print(" ".join(f"{key}={value}" for key, value in record.items() if key != "time"), file=sys.stdout, flush=True)


@dataclass
class Progress:
    """One task's reporter; at most a few events a second, so that a fast loop may call it every step."""

    task: str
    _last: float = 0.0

    def __call__(self, message: str, done: float = 0, total: float = 0) -> None:
        """Say how far the task is.

        Args:
            message: what is counted and the latest figure, for example ``epoch 3/8, dev weighted F1 0.58``.
            done: how much is done.
            total: out of how much; 0 where that is unknown.
        """
        now = time.monotonic()
        if now - self._last < 0.25 and (not total or done < total):
            return
        self._last = now
        emit("progress", task=self.task, message=message, done=done, total=total)

    def note(self, message: str) -> None:
        """Something a reader of the run should know afterwards."""
        emit("note", task=self.task, message=message)
