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
# UTF-8 decoded as Windows-1252: two characters for a Western letter, three for a dash or a quotation mark.
_DOUBLE_ENCODED = re.compile("[\u00c2\u00c3][\u0080-\u00bf\u0152-\u2122]|\u00e2[\u0080-\u00bf\u0152-\u2122]{2}")
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

    A letter such as â or Ã alone is no sign: it counts only if its bytes and the following ones form a UTF-8 character.
    """
    if "\ufffd" in text or _C1_CONTROLS.search(text):
        return True
    return any(_decoded(match.group()) is not None for match in _DOUBLE_ENCODED.finditer(text))


def repair(text: str) -> str:
    """Undo the damage of a wrong encoding.

    Repairs C1 control characters (U+0092 for an apostrophe), UTF-8 decoded as Windows-1252 (three characters for one), and
    replacement characters inside words, which most likely were apostrophes. Removes all other replacement characters.
    """
    text = _DOUBLE_ENCODED.sub(lambda match: _decoded(match.group()) or match.group(), text)
    text = _C1_CONTROLS.sub(lambda match: _from_windows(match.group().encode("latin-1")), text)
    text = _LOST_APOSTROPHE.sub("\u2019", text).replace("\ufffd", "")
    return text.replace("\u00a0", " ").strip()


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
