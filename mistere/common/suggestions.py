"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""


def one_of(names: Sequence[str]) -> str:
    """Names as a phrase: ``'a'``, ``'a' or 'b'``, ``'a', 'b' or 'c'``."""
    quoted = [repr(name) for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped name, or the list of valid names if none is similar."""
    names = sorted(valid)
    similar = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {similar[0]!r}?" if similar else f"; valid names: {', '.join(names)}."
