"""Prepare many utterances in parallel: decoding and features in threads, each on one core.

One utterance is a few milliseconds of small operations. Splitting each operation over all cores costs more than it gains, so
each utterance uses one core and several run in parallel (decoding and tensor operations release the GIL). A single utterance
of a live dialogue is prepared in the calling thread, because starting threads takes longer. ``mistere bench extraction_speed``
measures the gain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np

from mistere.common.processes.threads import usable_cores

T = TypeVar("T")
R = TypeVar("R")
Features = dict[str, Any]
"""One prepared utterance: numpy arrays or lists, and ``length`` (frames or tokens) for batching by length."""
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
    with _one_core_each(), ThreadPoolExecutor(usable_cores()) as pool:
        while window:
            yield from pool.map(work, window)
            window = list(islice(iterator, _WINDOW))


def _one_core_each() -> AbstractContextManager[None]:
    """One thread for each of PyTorch's operations; a server of graphs has not loaded PyTorch, and must not for this."""
    if "torch" not in sys.modules:
        return nullcontext()
    from mistere.model.torch_threads import one_core_each

    return one_core_each()


OVERFLOW: Final = "The encoder's result holds values that are no numbers (NaN or infinity)."
"""Half precision overflows above 65,504, and a damaged checkpoint may hold anything."""


def overflowing(vectors: np.ndarray, is_present: Sequence[bool]) -> list[int]:
    """The utterances that have the modality, but whose vector holds NaN or infinity: it would count as a missing modality.

    Args:
        vectors: ``[N, d]``.
        is_present: whether each utterance has the modality, ``[N]``.
    """
    return [int(index) for index in np.flatnonzero(~np.isfinite(vectors).all(axis=1)) if is_present[int(index)]]
