"""How many cores there are to use, and when one is enough."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores this process may use: those it may run on, or fewer where its container is given less time than they have."""
    own = len(os.sched_getaffinity(0))
    share = _container_cores()
    return own if share is None else max(1, min(own, math.ceil(share)))


def _container_cores() -> float | None:
    """The container's limit in cores (cgroup version 2, else 1); None without one."""
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


@contextmanager
def one_core_each() -> Iterator[None]:
    """Tensor operations inside use one thread; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
