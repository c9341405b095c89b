"""Processes that end with their parent."""

from __future__ import annotations

import ctypes
import signal

AFFECTS_RESULTS = False
"""How a process ends changes no result."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the Linux kernel to kill this process when its parent ends, for whatever reason.

    Otherwise the stages of a killed run would continue beside those of the next run.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return  # not Linux: a killed run may leave a stage behind
