"""PyTorch's threads: as many as the work is worth, and one while several encoders or workers run side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch

from mistere.common.processes.threads import usable_cores

PREDICTION_WORK: Final = 1e9
"""Floating-point operations of a prediction below which one thread computes it: about 10 ms of one core."""
ENCODING_WORK: Final = 5e9
"""The same of a batch of utterances that an encoder reads for the endpoint: about 0.1 s of one core."""
TRAINING_WORK: Final = 1e10
"""The same of a training step, about 0.1 s in hundreds of operations: with H = 64, dialogues as IEMOCAP's, it has 2e9."""

_OWN = threading.local()


def threads_for(work: float, little: float) -> int:
    """Number of threads for a task of ``work`` floating-point operations.

    One if that is less than ``little``. Small operations gain 5 to 10 % from a second thread on an idle machine; on a busy one each
    of them waits for a thread that has no core, which costs a factor of 3 and more (`mistere bench thread_contention`). Otherwise as
    many as PyTorch would use (a core each, or ``OMP_NUM_THREADS``), at most the cores that this process may use.

    The number depends on the work and the machine only, so a run that is repeated or resumed there has the same result.
    """
    return 1 if work < little else min(torch.get_num_threads(), usable_cores())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run PyTorch's operations on ``count`` threads inside the context; the number of threads is restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_core_each() -> AbstractContextManager[None]:
    """Run PyTorch's operations on one thread inside the context."""
    return threads(1)


def workers() -> ThreadPoolExecutor:
    """Threads for work of the calling thread that runs side by side, one for each core.

    They belong to the calling thread, whose priority they have, and end with it.
    """
    if not hasattr(_OWN, "pool"):
        _OWN.pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="encode")
    pool: ThreadPoolExecutor = _OWN.pool
    return pool
