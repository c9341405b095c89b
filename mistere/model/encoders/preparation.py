"""Prepare many utterances in parallel: decoding and features in threads, each on one core.

One utterance is a few milliseconds of small operations. Splitting each operation over all cores costs more than it gains, so
each utterance uses one core and several run in parallel (decoding and tensor operations release the GIL). A single utterance
of a live dialogue is prepared in the calling thread, because starting threads takes longer. ``mistere bench extraction_speed``
measures the gain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from mistere.common.processes.threads import usable_cores
from mistere.model.torch_threads import one_core_each

T = TypeVar("T")
R = TypeVar("R")
_WINDOW = 64
_SEQUENTIAL = 2
"""Up to this many items (the two modalities of one utterance), no threads are started."""


def prepared(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(work, items)`` in order, in parallel; holds at most one window of results."""
    iterator = iter(items)
    window = list(islice(iterator, _WINDOW))
    if len(window) <= _SEQUENTIAL:
        yield from map(work, window)
        return
    with one_core_each(), ThreadPoolExecutor(usable_cores()) as pool:
        while window:
            yield from pool.map(work, window)
            window = list(islice(iterator, _WINDOW))
