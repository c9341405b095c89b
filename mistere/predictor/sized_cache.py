"""A cache bounded by the size of what it holds: recordings that were sent before, and vectors of utterances."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class SizedCache(Generic[Key, Value]):
    """A cache that evicts the least recently used; several threads may use it.

    Args:
        capacity: size of everything in it, bytes; 0 disables the cache.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value of a key; None if it is not cached."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Cache a value, unless it exceeds the capacity; a key that is cached keeps its value.

        Args:
            key: what determines the value.
            value: the value.
            size: of the entry, bytes.
        """
        if size > self._capacity:
            return
        with self._lock:
            if key not in self._entries:
                self._entries[key] = (value, size)
                self._held += size
            self._entries.move_to_end(key)
            while self._held > self._capacity:
                _, (_, evicted) = self._entries.popitem(last=False)
                self._held -= evicted
