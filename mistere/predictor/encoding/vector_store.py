"""A cache of utterance vectors."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np


class VectorStore:
    """A cache of vectors that evicts the least recently used.

    Args:
        capacity: size of all vectors and keys, bytes; 0 disables the cache.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> np.ndarray | None:
        """The vector of a key; None if it is not cached."""
        with self._lock:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
            return vector

    def put(self, key: bytes, vector: np.ndarray) -> None:
        """Cache a copy of a vector; the vector itself may be a view that keeps a whole batch in memory."""
        cost = vector.nbytes + len(key)
        if cost > self._capacity:
            return
        with self._lock:
            if key not in self._vectors:
                self._vectors[key] = vector.copy()
                self._size += cost
            self._vectors.move_to_end(key)
            while self._size > self._capacity:
                evicted_key, evicted = self._vectors.popitem(last=False)
                self._size -= evicted.nbytes + len(evicted_key)
