"""Numbers in sentences: with their nouns in the singular or the plural, and shares in percent."""

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


def percent(share: float, digits: int = 0) -> str:
    """``12 %``, or ``12.3 %`` with one digit after the point; for a share of 0.123."""
    return f"{100 * share:.{digits}f} %"
