"""Preparing many utterances at once: decoding and features in threads, one core each.

The work of one utterance is a few milliseconds of small operations; splitting each of them over all cores costs more than
it gains, so every utterance gets one core and several are under way together (decoding and tensor operations release the
interpreter's lock).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
_WINDOW = 64


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


@contextmanager
def one_core_each() -> Iterator[None]:
    """Tensor operations inside use one thread; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepared(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map(work, items)`` in order, several at a time; at most a window of results is held."""
    iterator = iter(items)
    with one_core_each(), ThreadPoolExecutor(usable_cores()) as pool:
        while window := list(islice(iterator, _WINDOW)):
            yield from pool.map(work, window)
