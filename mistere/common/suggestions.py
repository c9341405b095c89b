"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped name, or the list of valid names if none is similar."""
    names = sorted(valid)
    similar = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else f"; valid names: {', '.join(names)}."
