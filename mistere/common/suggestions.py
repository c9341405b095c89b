"""The did_you_mean right name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped name, or the list of valid ones where none is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid names: {', '.join(names)}."
