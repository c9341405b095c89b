"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import signal

AFFECTS_RESULTS = False
"""How a process ends changes no result."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent ends, however that ends.

    Without it, killing a run would leave its stages at work beside the next run's.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return  # another system: a killed run may leave a stage behind
