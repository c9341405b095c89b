"""Preparing many utterances at once: decoding and features in threads, one core each.

The work of one utterance is a few milliseconds of small operations; splitting each of them over all cores costs more than
it gains, so every utterance gets one core and several are under way together (decoding and tensor operations release the
interpreter's lock). One utterance of a live dialogue is prepared where it is: starting threads would take longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from mistere.common.threads import one_core_each, usable_cores

T = TypeVar("T")
R = TypeVar("R")
_WINDOW = 64
_FEW = 2
"""An utterance's two modalities."""


def prepared(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(work, items)`` in order, several at a time; at most a window of results is held."""
    iterator = iter(items)
    window = list(islice(iterator, _WINDOW))
    if len(window) <= _FEW:
        yield from map(work, window)
        return
    with one_core_each(), ThreadPoolExecutor(usable_cores()) as pool:
        while window:
            yield from pool.map(work, window)
            window = list(islice(iterator, _WINDOW))
