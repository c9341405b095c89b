"""Detect and repair text that was decoded with the wrong encoding, and text without a visible character.

Importing this module registers the codec error handler :data:`FALLBACK` for files that are UTF-8 except for some bytes.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

FALLBACK = "windows-1252-fallback"
"""Error handler for reading text: decodes bytes that are not UTF-8 as Windows-1252."""

_C1_CONTROLS = re.compile("[\x80-\x9f]")
_CONTINUATION = (
    "[\x80-\xbf" + re.escape("".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xA0))) + "]"
)
# UTF-8 decoded as Windows-1252 or Latin-1: two characters for a letter of Europe or the Near East, three or four for others.
_DOUBLE_ENCODED = re.compile(
    f"[\xc2-\xdf]{_CONTINUATION}|[\xe0-\xef]{_CONTINUATION}{{2}}|[\xf0-\xf4]{_CONTINUATION}{{3}}"
)
_FOLLOWERS = frozenset(
    "\u2018\u2019\u201c\u201d\u2026\u2013\u2014\u2039\u203a\u2122\xa0\xab\xbb\xad\xb4\xa1\xbf\xae\u0160\u0161\u017d\u017e"
)
"""Characters that follow an accented letter in ordinary text, too: closing quotes, dashes, and letters of Central Europe."""
_AMOUNTS = frozenset("\u20ac\xa3")
_CLOSING = frozenset("\u2018\u2019\u201c\u201d\u2039\u203a\u2122\xab\xbb\xa1\xbf\xae\u2013\u2014")
"""Those after which no letter follows where the word before is a single letter."""
_OPENING = frozenset("\u2018\u201c\u2039")
"""Those before which there is a space, unless they close a quotation, and then no letter follows."""
_ALPHABETS = frozenset("\xc3\xc4\xc5\xce\xcf\xd0\xd1\xd2\xd7\xd8\xd9\xda\xdb")
"""First characters of the letters of living alphabets: Latin, Greek, Cyrillic, Hebrew and Arabic."""
_PASSES = 3
"""How often a text may have been decoded wrongly."""
_LOST_APOSTROPHE = re.compile("(?<=\\w)\ufffd(?=\\w)")
_VISIBLE = re.compile(r"[^\W_]")
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(code) for block in (range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0)) for code in block
}
"""Letters and marks that are drawn as nothing: fillers, the blank Braille pattern and variation selectors."""


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: only white space, control, zero-width and filler characters."""
    if any(match.group() not in _INVISIBLE for match in _VISIBLE.finditer(text)):
        return False
    return all(
        character in _INVISIBLE or unicodedata.category(character) in _INVISIBLE_CATEGORIES for character in text
    )


def looks_damaged(text: str) -> bool:
    """Whether a text holds replacement characters, C1 controls or UTF-8 that was decoded as Windows-1252.

    A letter such as â or Ã alone is no sign: it counts only if its bytes and the following ones form a UTF-8 character, and the following ones
    are no quotes, dashes or letters that stand after an accented letter in ordinary text, too (``Spaß…``, ``MENÜ“``, ``VÍŠ``).
    """
    if "\ufffd" in text or _C1_CONTROLS.search(text):
        return True
    return _is_double_encoded(text)


def repair(text: str) -> str:
    """Undo the damage of a wrong encoding.

    Repairs C1 control characters (U+0092 for an apostrophe), UTF-8 decoded as Windows-1252 (three characters for one), and
    replacement characters inside words, which most likely were apostrophes. Removes all other replacement characters.
    """
    text = decode_again(text)
    text = _LOST_APOSTROPHE.sub("\u2019", text).replace("\ufffd", "")
    return text.replace("\u00a0", " ").strip()


def decode_again(text: str) -> str:
    """The text of bytes that were decoded with the wrong encoding: UTF-8 as Windows-1252 or Latin-1, or Windows-1252 as Latin-1.

    What is ambiguous is decoded only where every other character that is not ASCII is damaged, too.
    """
    for _ in range(_PASSES):
        if not _is_double_encoded(text):
            break
        matches = [match for match in _DOUBLE_ENCODED.finditer(text) if _decoded(match.group()) is not None]
        whole = sum(len(match.group()) for match in matches) == sum(not character.isascii() for character in text)
        parts, end = [], 0
        for match in matches:
            if whole or _is_damage(match):
                parts += [text[end : match.start()], _decoded(match.group()) or ""]
                end = match.end()
        text = "".join([*parts, text[end:]])
    return _C1_CONTROLS.sub(lambda match: _from_windows(match.group().encode("latin-1")), text)


def _is_double_encoded(text: str) -> bool:
    return not text.isascii() and any(_is_damage(match) for match in _DOUBLE_ENCODED.finditer(text))


def _is_damage(match: re.Match[str]) -> bool:
    """Whether the characters of a match are the bytes of one UTF-8 character, and no letter with what may follow it."""
    characters = match.group()
    decoded = _decoded(characters)
    if decoded is None:
        return False
    first, rest = characters[0], set(characters[1:])
    if first == "\xc2" or "\u2000" <= decoded <= "\u206f" or decoded in "\u20ac\u2122":
        return True
    if len(characters) > 2:
        return not rest <= _FOLLOWERS | _AMOUNTS
    if not rest <= _FOLLOWERS:
        return True
    if first not in _ALPHABETS:
        return False
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    return before.islower() or (after.isalpha() and rest <= (_OPENING if before.isalpha() else _CLOSING))


def _decoded(characters: str) -> str | None:
    """Characters decoded again as UTF-8; None if their bytes are not UTF-8."""
    try:
        return b"".join(_windows_byte(character) for character in characters).decode("utf-8")
    except UnicodeDecodeError:
        return None


def _windows_byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        # Windows-1252 leaves five bytes undefined; decoders map them to C1 controls.
        return character.encode("latin-1", errors="replace")


def _from_windows(raw: bytes) -> str:
    return raw.decode("cp1252", errors="ignore")


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _from_windows(error.object[error.start : error.end]), error.end


codecs.register_error(FALLBACK, _undecodable)
