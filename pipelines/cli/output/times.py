"""Times and durations in the tables of the commands."""

from __future__ import annotations

import time


def minute_text(seconds: float | None) -> str:
    """``2026-03-01 14:05`` in UTC; empty for None.

    Args:
        seconds: since 1970.
    """
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def duration_text(seconds: float | None) -> str:
    """``42 s``, ``12 min``, ``3.5 h`` or ``2.1 d``; empty for None."""
    if seconds is None:
        return ""
    for unit, length, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / length:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} d"
