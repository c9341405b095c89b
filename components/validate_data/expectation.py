"""An expectation: which Great Expectations class checks which table, how severe a failure is, and how it is worded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from components.validate_data.dataset import Dataset
from components.validate_data.wording import fill
from mistere.config.composition import select
from mistere.config.validation import Severity, ValidationSettings

if TYPE_CHECKING:
    import pandas as pd

S = TypeVar("S", bound=ValidationSettings)
Check = tuple[str, Mapping[str, Any]]
"""A class of ``great_expectations.expectations``, and its arguments."""
Layer = Literal["Table", "Labels", "Dialogues", "Text", "Audio", "Text and audio", "Modalities", "Splits", "Drift"]
LAYERS: Final[tuple[Layer, ...]] = (
    "Table",
    "Labels",
    "Dialogues",
    "Text",
    "Audio",
    "Text and audio",
    "Modalities",
    "Splits",
    "Drift",
)
"""The headings of the report, in order."""


@dataclass(frozen=True, kw_only=True)
class Expectation(Generic[S]):
    """An expectation as it is declared, for any dataset and configuration.

    ``title`` and ``happened`` are templates: ``{max_text_length}`` and ``{max_missing_share:.0%}`` are settings,
    ``{language}`` and ``{labels}`` are what the dataset declares.

    Attributes:
        name: identifies it, in ``expectations.json`` and in ``validation.severity``.
        layer: the heading of the report under which it is listed.
        severity: what a failure means, unless the configuration changes it.
        title: what is expected, in plain words.
        check: the check itself.
        happened: what is wrong, as a template of :func:`components.validate_data.wording.describe`.
        fix: how to fix it.
        settings: its own settings in the ``validation`` section, each with default, bounds and ``description``.
        table: the table that it checks, and so what is counted.
        rows: builds the table, if no other module does.
        noun: what a row of the table is, in the singular; only for tables that ``rows`` builds.
        example: how one failing row is shown; the table's default if empty.
        needs: columns of the dataset without which it cannot be checked.
        allowed_share: the share (0..1) of the rows that may fail.
        not_checked: why it does not apply to a dataset; empty if it does.
    """

    name: str
    layer: Layer
    severity: Severity
    title: str
    check: Check | Callable[[Dataset, S], Check]
    happened: str | Callable[[Dataset], str]
    fix: str
    settings: type[S]
    table: str = "utterances"
    rows: Callable[[Dataset, S], pd.DataFrame] | None = None
    noun: str = ""
    example: str = ""
    needs: Sequence[str] = ()
    allowed_share: Callable[[S], float] | None = None
    not_checked: Callable[[Dataset], str] | None = None

    def resolve(self, dataset: Dataset, config: ValidationSettings) -> Rule:
        """Fill in the settings of a configuration and what a dataset declares.

        Args:
            dataset: the dataset.
            config: the whole ``validation`` section.
        """
        own = select(config, self.settings)
        declared = {"language": dataset.declared.language, "labels": ", ".join(dataset.declared.labels)}
        values = {**dict(own), **declared}
        happened = self.happened(dataset) if callable(self.happened) else self.happened
        return Rule(
            name=self.name,
            layer=self.layer,
            severity=config.severity.get(self.name, self.severity),
            title=fill(self.title, values),
            table=self.table,
            noun=self.noun,
            check=self.check(dataset, own) if callable(self.check) else self.check,
            happened=fill(happened, _Known(values)),
            fix=self.fix,
            example=self.example,
            needs=self.needs,
            allowed_share=self.allowed_share(own) if self.allowed_share else 0.0,
            not_checked=self.not_checked(dataset) if self.not_checked else "",
        )

    def build_rows(self, dataset: Dataset, config: ValidationSettings) -> pd.DataFrame | None:
        """The table that only this expectation knows; None if another module builds it."""
        return self.rows(dataset, select(config, self.settings)) if self.rows else None


class _Known(dict[str, Any]):
    """Fills in known names; leaves the others, which describe the failing rows, as placeholders."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return escape_braces(value) if isinstance(value, str) and key in self else value


def escape_braces(text: str) -> str:
    """Text that a template may contain: its braces are no placeholders."""
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An expectation of one dataset under one configuration; attributes as in :class:`Expectation`, filled in."""

    name: str
    layer: str
    severity: Severity
    title: str
    table: str
    noun: str
    check: Check
    happened: str
    fix: str
    example: str
    needs: Sequence[str]
    allowed_share: float
    not_checked: str


def is_true(column: str) -> Check:
    """Every value is True; missing values are ignored."""
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [True]}


def is_false(column: str) -> Check:
    """Every value is False; missing values are ignored."""
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [False]}


def is_not(column: str, value: str) -> Check:
    """No value equals this one."""
    return "ExpectColumnValuesToNotBeInSet", {"column": column, "value_set": [value]}


def is_between(column: str, **bounds: float) -> Check:
    """Every value is between ``min_value`` and ``max_value``, inclusive."""
    return "ExpectColumnValuesToBeBetween", {"column": column, **bounds}


def is_at_least(column: str, minimum: str) -> Check:
    """Every value of one column is at least that of another column in the same row."""
    return "ExpectColumnPairValuesAToBeGreaterThanB", {"column_A": column, "column_B": minimum, "or_equal": True}
