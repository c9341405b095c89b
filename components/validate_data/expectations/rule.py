"""One expectation: which Great Expectations class looks at which table, and how its failure is worded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One expectation.

    Attributes:
        name: identifies it, in ``expectations.json`` and in :data:`mistere.config.validation.SEVERITIES`.
        layer: the heading it stands under in the report.
        title: what is expected, in plain words.
        table: the table of facts it looks at, and so what is counted.
        expectation: the class in ``great_expectations.expectations``, and its arguments.
        happened: what is wrong, as a template of :func:`components.validate_data.wording.describe`.
        mend: how to put it right.
        example: how one failing row is shown; the table's own way where empty.
        needs: columns of the dataset without which it can't be judged.
        allowed_share: 0..1 of the rows may fail.
        not_checked: why it does not apply to this dataset; empty where it does.
    """

    name: str
    layer: str
    title: str
    table: str = "utterances"
    expectation: tuple[str, Arguments]
    happened: str
    mend: str
    example: str = ""
    needs: Sequence[str] = field(default=())
    allowed_share: float = 0.0
    not_checked: str = ""


def is_true(column: str) -> tuple[str, Arguments]:
    """Every value is True; missing ones do not count."""
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [True]}


def is_false(column: str) -> tuple[str, Arguments]:
    """Every value is False; missing ones do not count."""
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [False]}


def is_not(column: str, value: str) -> tuple[str, Arguments]:
    """No value is this one."""
    return "ExpectColumnValuesToNotBeInSet", {"column": column, "value_set": [value]}


def is_between(column: str, **bounds: float) -> tuple[str, Arguments]:
    """Every value lies between ``min_value`` and ``max_value``, inclusive."""
    return "ExpectColumnValuesToBeBetween", {"column": column, **bounds}


def is_at_least(column: str, least: str) -> tuple[str, Arguments]:
    """Every value of one column is at least that of another one beside it."""
    return "ExpectColumnPairValuesAToBeGreaterThanB", {"column_A": column, "column_B": least, "or_equal": True}
