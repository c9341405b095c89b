"""Embed a long stream of utterances window by window, with every core busy; whatever computes the vectors.

While the batches of one window are computed in threads, the next window is prepared (decoding, features) on the cores that run out
of batches, and the one before is used by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import numpy as np

from mistere.model.encoders.preparation import Features

T = TypeVar("T")
Finish = Callable[[], np.ndarray]
"""Waits for the vectors ``[N, d]`` of a window."""


def stream_windows(
    windows: Iterable[Sequence[T]],
    prepare: Callable[[T], Features | None],
    begin: Callable[[list[Features | None]], Finish],
    pool: Executor,
    load: Callable[[], object] = lambda: None,
) -> Iterator[np.ndarray]:
    """Vectors of a long stream, window by window; at most three windows are in memory.

    The next window is begun before the vectors of one are yielded, so that the cores have work while the caller uses them.

    Args:
        windows: items to embed, a few hundred each.
        prepare: makes the features of an item; called in the threads of ``pool``.
        begin: starts computing the vectors of prepared items.
        pool: the threads.
        load: called before a window with items is prepared: what several threads would load at once.
    """

    def started(prepared: list[Future[Features | None]]) -> Finish:
        return begin([future.result() for future in prepared])

    ready: list[Future[Features | None]] | None = None
    begun: Finish | None = None
    for window in windows:
        if window:
            load()
        following = started(ready) if ready is not None else None
        # Queued behind the batches, so that cores without a batch prepare the next window.
        ready = [pool.submit(prepare, item) for item in window]
        if begun:
            yield begun()
        begun = following
    if begun:
        last = started(ready or [])
        yield begun()
        yield last()
    elif ready is not None:
        yield started(ready)()


def begin_batches(
    features: Sequence[Features | None],
    dimension: int,
    batches: Callable[[list[int]], list[tuple[list[int], int]]],
    compute: Callable[[list[Features]], np.ndarray],
    pool: Executor | None,
) -> Finish:
    """Start computing the vectors of prepared utterances.

    Args:
        features: of the utterances; None for one without the modality.
        dimension: width of a vector.
        batches: of the lengths of those that have it, the positions in each batch and its number of rows, which is filled up with
            copies of the last.
        compute: the vectors ``[B, dimension]`` of a batch.
        pool: computes the batches in parallel; None for one after the other.

    Returns:
        A function that waits for the vectors float32 ``[N, dimension]``; a NaN row for None.
    """
    present = [(index, feature) for index, feature in enumerate(features) if feature is not None]
    sized = batches([feature["length"] for _, feature in present])
    chosen = [[present[position] for position in batch] for batch, _ in sized]
    work = [
        [feature for _, feature in [*rows, *rows[-1:] * (size - len(rows))]]
        for rows, (_, size) in zip(chosen, sized, strict=True)
    ]
    results = pool.map(compute, work) if pool else map(compute, work)

    def finish() -> np.ndarray:
        vectors = np.full((len(features), dimension), np.nan, dtype=np.float32)
        for rows, result in zip(chosen, results, strict=True):
            vectors[[index for index, _ in rows]] = result[: len(rows)]
        return vectors

    return finish
