"""What the work behind an artifact or a task used: processors, memory, bytes moved, energy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from pydantic import BaseModel, Field

AFFECTS_RESULTS = False


class Usage(BaseModel):
    """What a task, or the work behind an artifact, used."""

    cpu_seconds: float = Field(default=0.0, ge=0, description="Processor time of the process and its children.")
    gpu_seconds: float = Field(
        default=0.0, ge=0, description="Seconds that GPUs were held, summed over those in use; 0 without one."
    )
    memory_gib_seconds: float = Field(default=0.0, ge=0, description="Peak memory in GiB times the task's seconds.")
    read_bytes: int = Field(
        default=0, ge=0, description="Read from the object store and fetched from the data's remote."
    )
    written_bytes: int = Field(default=0, ge=0, description="Written to the object store.")
    measured_kwh: float | None = Field(
        default=None, ge=0, description="Energy by the machine's sensors; null where none was read."
    )


@dataclass
class _MovedBytes:
    """Bytes that this process has read from and written to the object store and the data's remote. Threads share it."""

    read: int = 0
    written: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, *, read: int = 0, written: int = 0) -> None:
        """Count a finished transfer."""
        with self._lock:
            self.read += read
            self.written += written


MOVED: Final = _MovedBytes()


def total_usage(parts: Iterable[Usage]) -> Usage:
    """The sum. Energy counts as measured only if it was for each part."""
    usages = list(parts)
    names = ("cpu_seconds", "gpu_seconds", "memory_gib_seconds", "read_bytes", "written_bytes")
    measured = [one.measured_kwh for one in usages if one.measured_kwh is not None]
    return Usage(
        **{name: sum(getattr(one, name) for one in usages) for name in names},
        measured_kwh=sum(measured) if usages and len(measured) == len(usages) else None,
    )


@dataclass
class _FurtherUsage:
    """What other processes and machines used for the task of this process, as far as its own counters do not have it."""

    parts: list[Usage] = field(default_factory=list)

    def add(self, usage: Usage) -> None:
        """Count it."""
        self.parts.append(usage)


FURTHER: Final = _FurtherUsage()
