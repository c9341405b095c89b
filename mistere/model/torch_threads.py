"""PyTorch's threads while several encoders or workers run side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_core_each() -> Iterator[None]:
    """Run PyTorch's operations on one thread inside the context; the number of threads is restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
