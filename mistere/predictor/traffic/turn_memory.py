"""Which turns of a dialogue are new: in a live conversation a client sends the dialogue again as it grows.

A turn is recognised by a digest of its content and of everything before it, which includes its position; one of a stream by its number
in it. The memory holds digests only, and a limited number of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

MOST_TURNS: Final = 65_536
"""Turns that are remembered, about 12 MiB."""
_DIGEST_BYTES: Final = 12
_COUNTED, _CONTINUED = 1, 2


def chained(contents: Sequence[bytes]) -> list[bytes]:
    """Names of the turns of a dialogue: digests of the content of each, and of everything before it.

    Args:
        contents: the content of each turn, of any length.
    """
    digest, names = b"", []
    for content in contents:
        digest = blake2b(digest + content, digest_size=_DIGEST_BYTES).digest()
        names.append(digest)
    return names


class TurnMemory:
    """Remembers the turns that were counted; the least recently used are forgotten first.

    Args:
        capacity: the number of turns.
    """

    def __init__(self, capacity: int = MOST_TURNS) -> None:
        self._capacity = capacity
        self._turns: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()

    def new_turns(self, turns: Sequence[bytes], predicted: Sequence[bool], unique: bool) -> tuple[list[bool], bool]:
        """Which turns of a dialogue are predicted and were not counted before, and whether the dialogue is new: none of its turns was.

        The turns count as counted from now on. A turn of context may be that of many dialogues, such as an agent's greeting.

        Args:
            turns: names each turn, as :func:`chained` does.
            predicted: whether each turn is predicted; others are context.
            unique: whether no two dialogues begin with equal contents, as is true of recordings. Otherwise a dialogue whose turns
                are all known is taken for another one that begins alike if the known one has gone on since.
        """
        new: list[bool] = []
        counted = False
        last = len(turns) - 1
        with self._lock:
            known = self._turns
            for index, name in enumerate(turns):
                state = known.get(name, 0)
                again = not unique and index == last and state == _COUNTED | _CONTINUED
                fresh = not state & _COUNTED or again
                counted = counted or not fresh
                new.append(predicted[index] and fresh)
                known[name] = state | (_COUNTED if predicted[index] else 0) | (_CONTINUED if index < last else 0)
                if state:
                    known.move_to_end(name)
            while len(known) > self._capacity:
                known.popitem(last=False)
        return new, any(new) and not counted

    def __len__(self) -> int:
        """The number of turns that are remembered."""
        return len(self._turns)
