"""Preparing many utterances at once: decoding and features in threads, one core each.

The work of one utterance is a few milliseconds of small operations; splitting each of them over all cores costs more than
it gains, so every utterance gets one core and several are under way together (decoding and tensor operations release the
interpreter's lock).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
_WINDOW = 64


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


def prepared(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(work, items)`` in order, several at a time; at most a window of results is held."""
    iterator = iter(items)
    with one_core_each(), ThreadPoolExecutor(usable_cores()) as pool:
        while window := list(islice(iterator, _WINDOW)):
            yield from pool.map(work, window)
