"""Recognises a live conversation, which a client sends again as it grows, so that each of its turns is compared once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from mistere.serving.shadow.figures import DialogueTally

MOST_DIALOGUES: Final = 4096
"""Dialogues that are remembered, about 2 MiB."""


class Conversations:
    """The tallies of the latest dialogues, by a digest of all their turns so far. It is used by one thread.

    Args:
        new: makes the tally of a new dialogue.
    """

    def __init__(self, new: Callable[[], DialogueTally]) -> None:
        self._new = new
        self._tallies: OrderedDict[bytes, DialogueTally] = OrderedDict()

    def tally(self, chain: Sequence[bytes], unique: bool) -> DialogueTally:
        """The tally of the dialogue that a request continues, or a new one.

        Args:
            chain: for each turn a digest of its content and everything before it.
            unique: whether no other dialogue begins alike, as is true of recordings. Otherwise a dialogue that is sent again
                unchanged is taken for another one with the same words.
        """
        last = len(chain) - 1
        for place in range(last, -1, -1):
            if chain[place] in self._tallies:
                known = self._tallies.pop(chain[place])
                if place < last or unique:
                    self._tallies[chain[last]] = known
                    return known
                break
        tally = self._tallies[chain[last]] = self._new()
        if len(self._tallies) > MOST_DIALOGUES:
            self._tallies.popitem(last=False)
        return tally
