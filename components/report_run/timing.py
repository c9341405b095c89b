"""Where the time went: the stages' own work, loading libraries, and everything around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistere.engine.stage import StageRecord
from mistere.runs.outcome import EXIT_HANDLER, Outcome

_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Timing:
    """Seconds of a run.

    Attributes:
        wall: from the start of the run to the writing of the report.
        compute: the sum of the stages' own work.
        imports: the sum of the time spent on loading libraries.
        overhead: wall minus compute; 0 where stages side by side worked longer than the wall clock.
    """

    wall: float
    compute: float
    imports: float
    overhead: float

    @property
    def overhead_share(self) -> float:
        """Overhead as a share of the wall clock."""
        return self.overhead / self.wall if self.wall > 0 else 0.0


def work_seconds(record: StageRecord) -> float:
    """A stage's own work; a stage that did not end has recorded only the total."""
    if record.compute_seconds or record.status in {"done", "reused"}:
        return record.compute_seconds
    return max(0.0, record.seconds - record.import_seconds)


def measure(outcome: Outcome, info: Mapping[str, Any], now: float) -> Timing:
    """Add up a run.

    Args:
        outcome: with the stages' records.
        info: what was written down at the start of the run.
        now: epoch seconds.
    """
    records = [record for record in outcome.stages if record.task != EXIT_HANDLER]
    started = info.get("started")
    if not isinstance(started, int | float):
        started = min((record.started for record in records), default=now)
    wall = max(0.0, now - started)
    compute = sum(work_seconds(record) for record in records)
    imports = sum(record.import_seconds for record in records)
    return Timing(wall, compute, imports, max(0.0, wall - compute))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def time_sentences(timing: Timing, outcome: Outcome) -> str:
    """What the table of stages does not say: the time that was not the stages' own work."""
    records = [record for record in outcome.stages if record.task != EXIT_HANDLER]
    if not records:
        return "No stage has recorded anything."
    reused = [record for record in records if record.status == "reused"]
    sentences = []
    if timing.compute > timing.wall:
        sentences.append(
            f"The stages worked {duration(timing.compute)} in {duration(timing.wall)}: some ran side by "
            "side, or in an earlier attempt of this run."
        )
    else:
        sentences.append(
            f"Of {duration(timing.wall)}, {duration(timing.compute)} were the stages' own work. The other "
            f"{duration(timing.overhead)} ({100 * timing.overhead_share:.0f} %) went into loading libraries "
            f"({duration(timing.imports)} summed over the stages) and into starting, checking and storing."
        )
    if len(reused) > 1:
        sentences.append(
            f"{len(reused)} stages were found finished from an earlier run with the same inputs, settings and code, "
            "and were not run again."
        )
    return " ".join(sentences)
