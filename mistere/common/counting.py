"""Numbers with their nouns: the singular and the plural of every sentence come from here."""

from __future__ import annotations


def plural(number: float, one: str, many: str = "") -> str:
    """The word that fits a number: ``plural(1, "is", "are")`` is ``is``.

    Args:
        number: how many there are.
        one: the word for exactly one.
        many: the word for any other number; by default ``one`` with an s.
    """
    return one if number == 1 else many or f"{one}s"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 utterance``, ``2,000 utterances``; the arguments are those of :func:`plural`."""
    return f"{number:,} {plural(number, one, many)}"
