"""Measures what a task uses, from its start to its end.

Energy is measured by codecarbon, where that is installed and the machine has sensors that this process may read (RAPL, NVML).
Elsewhere it is not measured; reports estimate it from the processors' time (:mod:`mistere.runs.costs`).
"""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.usage import FURTHER, MOVED, Usage, total_usage

AFFECTS_RESULTS = False

_RAPL: Final = Path("/sys/class/powercap")
_DEVICES: Final = Path("/dev")
_GIB: Final = 1024.0


class UsageMeter:
    """Runs from its creation; :meth:`usage` reads it.

    Args:
        rapl: folder of the kernel's counters of energy.
        devices: folder of the GPUs' devices.
        energy: whether to measure the machine's energy, which one process of a machine does.
    """

    def __init__(self, rapl: Path = _RAPL, devices: Path = _DEVICES, *, energy: bool = True) -> None:
        self._clock = time.perf_counter()
        self._cpu = _cpu_seconds()
        self._read, self._written = MOVED.read, MOVED.written
        self._further = len(FURTHER.parts)
        self._tracker = _energy_tracker(rapl, devices) if energy else None
        self._kwh: float | None = None

    def usage(self) -> Usage:
        """What was used since the meter was made. The first call ends the measurement of energy: make it when the work is done."""
        if self._tracker is not None:
            self._kwh, self._tracker = _measured_kwh(self._tracker), None
        seconds = time.perf_counter() - self._clock
        own = Usage(
            cpu_seconds=round(_cpu_seconds() - self._cpu, 3),
            gpu_seconds=round(seconds * _gpus_in_use(), 3),
            memory_gib_seconds=round(peak_memory_mb() / _GIB * seconds, 3),
            read_bytes=MOVED.read - self._read,
            written_bytes=MOVED.written - self._written,
            measured_kwh=self._kwh,
        )
        further = FURTHER.parts[self._further :]
        return total_usage([own, *further]) if further else own


def peak_memory_mb() -> float:
    """Peak resident memory in MiB of this process or of a child, whichever is larger (Linux reports KiB)."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _gpus_in_use() -> int:
    """How many GPUs this process has computed on. Importing torch only for this would take seconds."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return sum(torch.cuda.max_memory_allocated(number) > 0 for number in range(torch.cuda.device_count()))


def _has_sensors(rapl: Path, devices: Path) -> bool:
    """Whether processors and GPUs can all be measured: for what it cannot, codecarbon takes a constant (3.3.2, resource_tracker.py)."""
    if not any(os.access(counter, os.R_OK) for counter in rapl.glob("intel-rapl:*/energy_uj")):
        return False
    gpus = len(list(devices.glob("nvidia[0-9]*")))
    if not gpus:
        return True
    with suppress(Exception):  # without NVIDIA's driver, its library raises one of a dozen errors
        import pynvml

        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount() >= gpus)
    return False


def _energy_tracker(rapl: Path, devices: Path) -> Any:
    """A running tracker of codecarbon; None where it is not installed or would only guess."""
    if importlib.util.find_spec("codecarbon") is None or not _has_sensors(rapl, devices):
        return None
    with suppress(Exception):  # a sensor that cannot be read is no reason to fail a stage
        from codecarbon import OfflineEmissionsTracker

        tracker = OfflineEmissionsTracker(
            country_iso_code="USA",  # decides only its own CO2 figure, which is not used
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
        )
        tracker.start()
        return tracker
    return None


def _measured_kwh(tracker: Any) -> float | None:
    with suppress(Exception):
        tracker.stop()
        return float(tracker.final_emissions_data.energy_consumed)
    return None
