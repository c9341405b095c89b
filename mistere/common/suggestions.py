"""Suggestions for mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

AFFECTS_RESULTS = False
"""How an error is worded changes no result."""

_MOST_NAMES: Final = 20
"""Names that one sentence lists; `mistere settings` shows all of a section."""


def one_of(names: Sequence[str]) -> str:
    """Names as a phrase: ``'a'``, ``'a' or 'b'``, ``'a', 'b' or 'c'``."""
    quoted = [repr(name) for name in names]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for a mistyped name, or the list of valid names if none is similar."""
    names = sorted(valid)
    if not names:
        return "; there is no valid name."
    similar = difflib.get_close_matches(name, names, n=1)
    if similar:
        return f"; did you mean {similar[0]!r}?"
    more = len(names) - _MOST_NAMES
    return f"; valid names: {', '.join(names[:_MOST_NAMES])}{f' and {more} more' if more > 0 else ''}."
