"""Facts of one transcript, and the word sequences that identify a conversation."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mistere.data.scripts import foreign_share, main_script
from mistere.data.text_repair import is_blank, looks_damaged

SEQUENCE_WORDS = 5
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_MULTIPLIER, _MASK = 0x100000001B3, (1 << 64) - 1


class TranscriptFacts(NamedTuple):
    """Facts of one transcript.

    Attributes:
        text_length: in characters, without surrounding whitespace; 0 if none of them is visible.
        damaged: it was decoded with the wrong encoding; None without a transcript.
        foreign: share of its letters that are not of the language's script; None if the script is unknown.
        phrase: digest of its words; None for fewer than four words, which repeat in any conversation.
        wording: digest of its words, however few, or of all characters of a text without words; None without a transcript.
        script: the script of most of its letters, such as ``Latin``; None without letters.
    """

    text_length: int = 0
    damaged: bool | None = None
    foreign: float | None = None
    phrase: int | None = None
    wording: int | None = None
    script: str | None = None


def transcript_facts(text: str | None, words: Sequence[str], scripts: frozenset[str] | None) -> TranscriptFacts:
    """Facts of one transcript.

    Args:
        text: the transcript.
        words: its words (:func:`words_of`).
        scripts: of its language; None if they are unknown.
    """
    stripped = (text or "").strip()
    if is_blank(stripped):
        return TranscriptFacts()
    foreign = None if scripts is None else foreign_share(stripped, scripts)
    wording = _signed(_sequence(words or [stripped]))
    phrase = wording if len(words) >= 4 else None
    return TranscriptFacts(len(stripped), looks_damaged(stripped), foreign, phrase, wording, main_script(stripped))


def words_of(text: str | None) -> list[str]:
    """The words of a transcript, without case and punctuation."""
    return _WORD.findall(text.casefold()) if text else []


class Conversation:
    """Digests of all sequences of five words in a dialogue, across its turns."""

    def __init__(self) -> None:
        self._tail: list[int] = []

    def add(self, words: Sequence[str]) -> list[int]:
        """Add a turn's words; return the sequences that end in it."""
        codes = [*self._tail, *(_code(word) for word in words)]
        self._tail = codes[-(SEQUENCE_WORDS - 1) :]
        return [
            _signed(_combined(codes[start : start + SEQUENCE_WORDS]))
            for start in range(len(codes) - SEQUENCE_WORDS + 1)
        ]


@lru_cache(maxsize=1 << 16)
def _code(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _combined(codes: Sequence[int]) -> int:
    value = 0xCBF29CE484222325
    for code in codes:
        value = ((value ^ code) * _MULTIPLIER) & _MASK
        value ^= value >> 29
    return value


def _sequence(words: Sequence[str]) -> int:
    return _combined([_code(word) for word in words])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
