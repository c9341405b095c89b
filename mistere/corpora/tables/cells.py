"""Convert the cells of a table to names, texts, turns and splits; what is unclear is refused with its location."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from mistere.common.errors import DataError
from mistere.common.splits import Split
from mistere.data.text_repair import is_blank

_SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test",
}  # fmt: skip
_MISSING_NAMES = frozenset({"nan", "<na>", "nat", "none", "null", "n/a", "#n/a"})
"""How programs write a missing value into a text file, in lower case; no dialogue or speaker has such a name."""
_MISSING_LABELS = _MISSING_NAMES - {"none"}  # "none" is a label of many sets
_MISSING_TEXTS = frozenset({"nan", "NaN", "<NA>", "NULL", "#N/A"})
"""As above, as an exact cell: "Nan" and "null" may be said."""
_WHOLE = re.compile(r"[+-]?\d+(?:[.,](?:0{1,2}|0{4,}))?")
"""A whole number, also as 1.0, 1,0 or 1.000000; three zeros may be thousands."""
_SCIENTIFIC = re.compile(r"[+-]?\d(?:[.,]\d+)?E\+\d+")
"""As spreadsheets show long numbers: 1.23457E+11."""
_LARGEST_EXACT = 2**53
"""Floats above this skip whole numbers."""


def name_of(value: object, column: str, where: str) -> str | None:
    """The name in a cell: text, or a whole number as text, also from a decimal type or a float such as 3.0; None if missing.

    Raises:
        DataError: it is another type, or a number that does not identify anything exactly.
    """
    value = _plain(value)
    if isinstance(value, (float, Decimal)):
        if value != value:
            return None
        if not math.isfinite(value) or value != int(value):
            raise DataError(f"{where}: {column} is {type(value).__name__}, not text ({value}): write names as text.")
        if isinstance(value, float) and abs(value) > _LARGEST_EXACT:
            raise DataError(
                f"{where}: {column} is a float of more than 15 digits, which are rounded: write it as text."
            )
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 2**64:
            raise DataError(f"{where}: {column} is a number of more than 64 bits; a name is expected.")
        return str(value)
    text = text_of(value, column, where)
    if text is None:
        return None
    text = _trimmed(text)
    if column != "label" and _SCIENTIFIC.fullmatch(text):
        raise DataError(
            f"{where}: {column} is {text!r}: a spreadsheet has rounded it, so that different names may be the same now: export "
            "the column as text."
        )
    missing = _MISSING_LABELS if column == "label" else _MISSING_NAMES
    return None if text.casefold() in missing else text


def text_of(value: object, column: str, where: str) -> str | None:
    """The text in a cell; None if there is none, or only white space and invisible characters.

    Raises:
        DataError: it is no text, or holds NUL, half of a surrogate pair, or bytes that are not UTF-8.
    """
    value = _plain(value)
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            value = bytes(value).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: {column} holds bytes that are not UTF-8: write it as text.") from error
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} is {type(value).__name__}, not text.")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{where}: {column} holds characters that are no text (NUL, or half of a surrogate pair).")
    return None if is_blank(value) else value


def is_missing_text(text: str) -> bool:
    """Whether a text is how a program writes a missing value: ``nan``, ``<NA>``, ``NULL``, ``#N/A``."""
    return text.strip() in _MISSING_TEXTS


def turn_of(value: object, where: str) -> int:
    """The whole number in a cell.

    Raises:
        DataError: it is none.
    """
    number = _number(value)
    if number is None:
        raise DataError(f"{where}: the turn is {str(value)[:40]!r}, not a whole number.")
    return number


def split_of_cell(value: object, where: str) -> Split:
    """The split that a cell names.

    Raises:
        DataError: it names none.
    """
    text = text_of(value, "split", where) or ""
    split = _SPLIT_NAMES.get(_trimmed(text).lower())
    if split is None:
        raise DataError(f"{where}: the split is {str(value)[:40]!r}; train, dev (or validation) and test are known.")
    return split


def is_turn(text: str) -> bool:
    """Whether a text is a turn."""
    return _number(text) is not None


def is_split(text: str) -> bool:
    """Whether a text names a split."""
    return text.strip().lower() in _SPLIT_NAMES


def whole_numbers(values: Iterable[str]) -> dict[str, str]:
    """How to write names that are whole numbers without decimals: ``1.0`` becomes ``1``, as a column with gaps is exported.

    Returns:
        The names that change; empty if one of the values is no whole number, since ``1.0`` may then be a version beside ``1.1``.
    """
    names = set(values)
    if not all(_WHOLE.fullmatch(name) for name in names):
        return {}
    return {name: whole for name in names if (whole := re.split("[.,]", name)[0]) != name}


def _plain(value: object) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value


def _number(value: object) -> int | None:
    text: Any = _trimmed(value) if isinstance(value, str) else value
    if isinstance(text, str) and _WHOLE.fullmatch(text):
        text = text.replace(",", ".")
    try:
        number = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if isinstance(value, bool) or not number.is_integer() or abs(number) > _LARGEST_EXACT:
        return None
    return int(number)


def _trimmed(text: str) -> str:
    """A name without white space and invisible characters (a byte order mark, a zero-width space) around it."""
    start, stop = 0, len(text)
    while start < stop and is_blank(text[start]):
        start += 1
    while stop > start and is_blank(text[stop - 1]):
        stop -= 1
    return text[start:stop]
