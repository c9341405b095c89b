"""CPU cores and threads: how many cores are usable, and how OpenMP threads wait.

Importing this module does not import PyTorch: :func:`limit_spinning` must run before PyTorch loads its OpenMP runtime.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
WAITING_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables that set how OpenMP threads wait (any runtime, GNU, LLVM and Intel)."""
_SPINS = "5000"
"""Rounds of the waiting loop, some ten microseconds: longer than the barriers of a small operation on an idle machine."""


def limit_spinning() -> None:
    """Let waiting OpenMP threads spin for a moment and then sleep, in this process and its children.

    libgomp, the OpenMP runtime of PyTorch's Linux builds, spins 300,000 rounds at each barrier (GOMP_SPINCOUNT in its manual).
    Where another process needs the core, the thread that everybody waits for does not run meanwhile: training on a loaded
    machine takes many times longer. Threads that never spin are slow as well: on an idle machine they sleep and wake between
    the thousands of small operations of an epoch. The benchmark ``thread_contention`` measures all three. The number of
    threads and hence the results do not change. A wait policy that the user has set in the environment is kept.

    The runtime reads the variable when it is loaded: call this before PyTorch is imported.
    """
    if not any(name in os.environ for name in WAITING_VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def usable_cores() -> int:
    """Number of cores that this process may use: its CPU affinity, or the container's CPU limit where that is lower."""
    allowed = len(os.sched_getaffinity(0))
    limit = _container_cores()
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def _container_cores() -> float | None:
    """The container's CPU limit in cores (cgroup version 2, else 1); None without a limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (_CGROUP / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max"
        return None
