"""The time of a run: the stages' work, loading libraries, and overhead."""

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
        compute: work of all stages, summed.
        imports: time for loading libraries, summed.
        overhead: wall minus compute; 0 if parallel stages worked longer than the wall clock.
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
    """Seconds of a stage's work; an unfinished stage has recorded only its total time."""
    if record.compute_seconds or record.status in {"done", "reused"}:
        return record.compute_seconds
    return max(0.0, record.seconds - record.import_seconds)


def measure(outcome: Outcome, info: Mapping[str, Any], now: float) -> Timing:
    """Sum up the times of a run.

    Args:
        outcome: with the records of the stages.
        info: the record of the run's start.
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
    """Seconds as readable text, such as ``2 min 5 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    rounded = round(seconds)
    if rounded < 120:
        return f"{rounded}{_SPACE}s"
    if rounded < 3600:
        return f"{rounded // 60}{_SPACE}min {rounded % 60}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def time_sentences(timing: Timing, outcome: Outcome) -> str:
    """Sentences on the time that the table of stages does not show."""
    records = [record for record in outcome.stages if record.task != EXIT_HANDLER]
    if not records:
        return "No stage has a record."
    reused = [record for record in records if record.status == "reused"]
    sentences = []
    if timing.compute > timing.wall:
        sentences.append(
            f"The stages worked for {duration(timing.compute)} in {duration(timing.wall)}: some ran in parallel, or in an "
            "earlier attempt of this run."
        )
    else:
        sentences.append(
            f"Of {duration(timing.wall)}, the stages worked for {duration(timing.compute)}. The other "
            f"{duration(timing.overhead)} ({100 * timing.overhead_share:.0f} %) were spent on loading libraries "
            f"({duration(timing.imports)} in all stages) and on starting, checking and storing."
        )
    sentences.append(
        f"The times in the table, {duration(sum(record.seconds for record in records))} together, include loading libraries, checking and "
        "storing."
    )
    if len(reused) > 1:
        sentences.append(
            f"{len(reused)} stages were reused from an earlier run with the same inputs, settings and code."
        )
    return " ".join(sentences)
