"""Cron expressions of Kubeflow Pipelines: six fields, seconds first, in the dialect of robfig/cron.

General libraries (croniter, cronsim) do not check this dialect: they accept ``7`` for Sunday, ``L``, ``#``, wrap-around ranges or
``@daily``, or refuse ``?``, so the server would refuse an expression after the check, or the check a valid expression.
"""

from __future__ import annotations

import re
from typing import Final

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: Final[tuple[tuple[str, int, int, dict[str, int]], ...]] = (
    ("second", 0, 59, {}),
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of the week", 0, 6, {name: number for number, name in enumerate(_DAYS)}),
)
_PART: Final = re.compile(r"(?P<first>\*|\?|\w+)(-(?P<last>\w+))?(/(?P<step>\d+))?")


def check_cron(expression: str) -> str:
    """Check an expression; return it with single spaces between its fields.

    Raises:
        ValueError: the expression is invalid; one sentence says why.
    """
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(
            f"{expression!r} has {len(fields)} fields: Kubeflow Pipelines needs six (second, minute, hour, day of the month, "
            "month, day of the week), for example '0 0 2 * * *'"
        )
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            _check_part(part, name, low, high, names)
    return " ".join(fields)


def _check_part(part: str, name: str, low: int, high: int, names: dict[str, int]) -> None:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is not a valid {name}: write *, a number, a range a-b, or any of them with /step")
    if match["first"] in {"*", "?"}:
        first, last = low, high
        if match["last"]:
            raise ValueError(f"{part!r} is not a valid {name}: a range needs a number on both sides")
    else:
        first = _number(match["first"], name, low, high, names)
        last = _number(match["last"], name, low, high, names) if match["last"] else first
    if first > last:
        raise ValueError(f"{part!r} is not a valid {name}: the range ends before it begins")
    if match["step"] and int(match["step"]) == 0:
        raise ValueError(f"{part!r} is not a valid {name}: the step must be at least 1")


def _number(text: str, name: str, low: int, high: int, names: dict[str, int]) -> int:
    number = names.get(text.lower(), int(text) if text.isdigit() else -1)
    if not low <= number <= high:
        also = f", or {', '.join(names)}" if names else ""
        raise ValueError(f"{text!r} is not a valid {name}: the range is {low} to {high}{also}")
    return number
