"""The scripts of texts (Latin, Cyrillic, Han, …), by the Unicode names of their letters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

_LATIN: Final = frozenset({"LATIN"})
_LATIN_LANGUAGES: Final = (
    "af ca cs cy da de en es et eu fi fo fr ga gl hr hu id is it "
    "lt lv ms mt nl no nb nn pl pt ro sk sl sq sv sw tl tr vi"
)
_SCRIPTS: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(_LATIN_LANGUAGES.split(), _LATIN),
    **dict.fromkeys(["be", "bg", "kk", "ky", "mk", "mn", "ru", "tg", "uk"], frozenset({"CYRILLIC"})),
    **dict.fromkeys(["sr", "az", "uz"], frozenset({"LATIN", "CYRILLIC"})),
    **dict.fromkeys(["ar", "fa", "ps", "ur"], frozenset({"ARABIC"})),
    **dict.fromkeys(["hi", "mr", "ne", "sa"], frozenset({"DEVANAGARI"})),
    "el": frozenset({"GREEK"}),
    "he": frozenset({"HEBREW"}),
    "hy": frozenset({"ARMENIAN"}),
    "ka": frozenset({"GEORGIAN"}),
    "bn": frozenset({"BENGALI"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "th": frozenset({"THAI"}),
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    "ko": frozenset({"HANGUL", "CJK"}),
}
"""Scripts of a language (ISO 639-1), by the first word of its characters' Unicode names."""
_FORMS: Final = frozenset({"FULLWIDTH", "HALFWIDTH", "MATHEMATICAL", "MODIFIER", "SMALL"})
"""First words of names of letters that are variants, whose script follows or is unknown."""
_NAMES: Final = {"CJK": "Han", "KATAKANA-HIRAGANA": "Kana", "KATAKANA": "Kana", "HIRAGANA": "Kana"}
SCRIPT_NAMES: Final = tuple(
    sorted({_NAMES.get(script, script.capitalize()) for scripts in _SCRIPTS.values() for script in scripts})
)
"""What :func:`main_script` calls the scripts of known languages; it may return others."""
_MOST_CHARACTERS: Final = 1000
"""Characters of a text that are looked at."""
_LEAST_SHARE: Final = 0.005
"""Share of the texts of train from which on a model has been trained on a script; a few stray texts teach nothing."""


def scripts_of(language: str) -> frozenset[str] | None:
    """The scripts of a language tag such as ``en`` or ``pt-BR``; None if they are unknown."""
    return _SCRIPTS.get(re.split("[-_]", language.strip().lower())[0])


def foreign_share(text: str, scripts: frozenset[str]) -> float:
    """Share of the letters of a text that are in none of the scripts; 0 without letters."""
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return 0.0 if "LATIN" in scripts or not letters else 1.0
    found = [_script(character) for character in text if character.isalpha()]
    return sum(script not in scripts for script in found) / len(found) if found else 0.0


@lru_cache(maxsize=1 << 14)
def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ")[0]


def main_script(text: str | None) -> str | None:
    """The script of most letters of a text, such as ``Latin``; None if it has no letters of a known script.

    Hiragana and Katakana are one (``Kana``).
    """
    if not text:
        return None
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    counts: Counter[str] = Counter()
    for character in text[:_MOST_CHARACTERS]:
        if character.isalpha() and (script := _script(character)) not in _FORMS:
            counts[script] += 1
    if not counts:
        return None
    name = min(counts, key=lambda script: (-counts[script], script))
    return _NAMES.get(name, name.capitalize())


def trained_scripts(texts: Mapping[str, int]) -> list[str]:
    """The scripts that a model has been trained on, from the number of texts of train by main script, in alphabetical order."""
    total = sum(texts.values())
    return sorted(script for script, count in texts.items() if count >= _LEAST_SHARE * total)


def unknown_scripts(texts: Iterable[str | None], trained: Iterable[str]) -> dict[str, list[int]]:
    """The indices of the texts whose main script is none of the trained ones, by script; nothing if no script is recorded."""
    known = frozenset(trained)
    unknown: dict[str, list[int]] = {}
    for index, text in enumerate(texts if known else ()):
        script = main_script(text)
        if script is not None and script not in known:
            unknown.setdefault(script, []).append(index)
    return unknown
