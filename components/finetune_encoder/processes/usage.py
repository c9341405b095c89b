"""What the training processes of a machine used and their parent's counters do not have: GPUs, bytes moved, memory of each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from mistere.artifacts.usage import Usage, total_usage
from mistere.engine.usage_meter import UsageMeter

AFFECTS_RESULTS = False

_FILE: Final = "usage-{}.json"
"""In the job's folder, by rank."""


def note_usage(folder: Path, rank: int, meter: UsageMeter) -> None:
    """Write what a process used, for its parent.

    Args:
        folder: of the job.
        rank: of the process.
        meter: runs since the begin of the process.
    """
    (folder / _FILE.format(rank)).write_text(meter.usage().model_dump_json(), encoding="utf-8")


def processes_usage(folder: Path) -> Usage:
    """What the processes of a job used in all, without what their parent counts itself.

    The parent has its children's processor time, the memory of the largest child, and the energy of the whole machine.

    Args:
        folder: of the job.
    """
    parts = []
    for file in sorted(folder.glob(_FILE.format("*"))):
        try:
            parts.append(Usage.model_validate_json(file.read_bytes()))
        except ValidationError:  # of a process that was killed while it wrote
            continue
    memory = [one.memory_gib_seconds for one in parts]
    further = sum(memory) - max(memory, default=0.0)
    return total_usage(parts).model_copy(
        update={"cpu_seconds": 0.0, "memory_gib_seconds": further, "measured_kwh": 0.0}
    )
