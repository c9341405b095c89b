"""Transcription errors: words replaced by similar ones, left out and added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from numpy.random import Generator

_REPLACED, _DELETED, _ADDED = 0.6, 0.25, 0.15
"""Shares of the errors, about those of recognisers of conversational speech."""
_CANDIDATES: Final = 24
"""Words of the dataset of which the most similar one replaces another; a recogniser mishears, it does not guess at random."""
_UNSPACED: Final = "\u3040-\u30ff\u3400-\u9fff"
"""Japanese and Chinese, whose errors are counted by character."""
_TOKENS: Final = re.compile(rf"(?P<space>\s*)(?P<token>[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_CHARACTER: Final = re.compile(rf"[{_UNSPACED}]")


def with_word_errors(text: str, rate: float, draw: Generator, words: Sequence[str]) -> str:
    """A transcript with an expected word error rate of ``rate`` (0..1); at least one word is kept.

    Args:
        text: the transcript.
        rate: errors per word of the transcript: 60 % replacements, 25 % deletions, 15 % additions. A character of Japanese or Chinese
            counts as a word.
        draw: the random numbers; those of a word do not depend on the rate, so that a higher one has the same errors and more.
        words: the words of the dataset, which replace others; without any, words are repeated.
    """
    own = [(" " if found["space"] else "", found["token"]) for found in _TOKENS.finditer(text)]
    heard: list[str] = []
    lost_space = ""
    for space, word in own:
        error, kind, *picks = draw.random(2 + _CANDIDATES)
        candidates = [words[int(pick * len(words))] for pick in picks] if words else [word]
        is_character = bool(_CHARACTER.fullmatch(word))
        if is_character:
            candidates = [candidate[:1] for candidate in candidates]
        space, lost_space = space or lost_space, ""
        if error >= rate:
            heard.append(space + word)
        elif kind < _REPLACED:
            heard.append(space + _similar(word, candidates))
        elif kind < _REPLACED + _ADDED:
            heard += [space + word, ("" if is_character else " ") + candidates[0]]
        else:
            lost_space = space
    return "".join(heard or [word for _, word in own[:1]]).strip()


def _similar(word: str, candidates: Sequence[str]) -> str:
    """The candidate that is spelled most like a word, without being it; with the word's last punctuation mark."""
    plain = word.strip(".,;:!?…\"'").lower()
    others = [one for one in candidates if one != plain] or [f"{plain}s"]
    best = max(others, key=lambda one: (SequenceMatcher(None, plain, one).ratio(), one))
    return best + (word[-1] if word[-1:] in ".,;:!?" else "")
