"""How many connections each protocol may hold, so that file descriptors never run out."""

from __future__ import annotations

import resource

from mistere.common.errors import UsageError

ACCEPTED_AT_ONCE = 16
"""Connections accepted before the first of them is counted; the event loop accepts that many in one step."""
_RESERVED = 48 + ACCEPTED_AT_ONCE
"""Descriptors for everything else: about 16 after the start, then the object store's connections and files."""
_FEWEST = 8


def connection_limit(wanted: int) -> int:
    """The most connections for REST, and the same number for gRPC.

    Args:
        wanted: the setting; the process's limit on open files may allow less.

    Raises:
        UsageError: the limit on open files leaves room for hardly any connection.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    available = wanted if soft == resource.RLIM_INFINITY else (soft - _RESERVED) // 2
    if available < min(_FEWEST, wanted):
        raise UsageError(
            f"The limit of {soft} open files is too low for a server: raise it to {_RESERVED + 2 * _FEWEST} or more (ulimit -n)."
        )
    return min(wanted, available)
