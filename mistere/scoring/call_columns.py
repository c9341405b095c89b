"""The columns of an archive that say something about a call: its groups and its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import DataError, UsageError
from mistere.common.names import shown
from mistere.common.parsing.parquet import open_parquet
from mistere.common.suggestions import did_you_mean
from mistere.config.scoring import SPEAKER
from mistere.data.dataset import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, DatasetInfo, read_batches
from mistere.data.kinds import kind_of

if TYPE_CHECKING:
    import pyarrow as pa

NO_VALUE: Final = "(none)"
"""The group of calls without a value in a column."""
MAX_VALUES: Final = 200
"""Values of a group column at most: more would not be groups, and would name single callers."""
_LONGEST_VALUE: Final = 80


@dataclass(frozen=True)
class ArchiveColumns:
    """The columns with the facts of calls.

    Attributes:
        by: group columns.
        time: column of the time; empty for none.
    """

    by: tuple[str, ...] = ()
    time: str = ""

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.by, *([self.time] if self.time else [])]

    def check(self, path: Path, shard: str, info: DatasetInfo) -> None:
        """Refuse columns that a shard lacks, and those that hold the content of turns.

        Raises:
            UsageError: there is no such column, or it cannot be one of groups or of times.
        """
        if not self.names:
            return
        with open_parquet(path) as file:
            schema = file.schema_arrow
        taken = {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, SPEAKER}
        taken |= {kind_of(kind).column(name) for name, kind in info.kinds.items()}
        for name in self.names:
            if name in taken:
                raise UsageError(f"{name} is a column of turns, not of calls: name another one.")
            if name not in schema.names:
                others = [known for known in schema.names if known not in taken]
                raise UsageError(f"{shard} has no column {shown(name)}{did_you_mean(name, others)}")
        for name in self.by:
            if not _is_group(schema.field(name).type):
                raise UsageError(
                    f"the column {shown(name)} of {shard} is {schema.field(name).type}: name one of texts, whole numbers or truth values."
                )
        if self.time and not _is_time(schema.field(self.time).type):
            raise UsageError(
                f"the column {shown(self.time)} of {shard} is {schema.field(self.time).type}: name one of timestamps, dates, or texts "
                "like 2026-03-31T09:30:00."
            )

    def read(self, path: Path, shard: str) -> Iterator[tuple[datetime | None, tuple[str | None, ...]]]:
        """Time and groups of each row, in order."""
        for batch in read_batches([path], self.names or ["dialogue_id"]):
            yield from self.values(batch, shard)

    def values(self, batch: pa.RecordBatch, shard: str) -> Iterator[tuple[datetime | None, tuple[str | None, ...]]]:
        """Time and groups of each row of a batch, which has all of the columns.

        Raises:
            DataError: a value is no time.
        """
        values = [[_group(value) for value in batch.column(name).to_pylist()] for name in self.by]
        times = _times(batch.column(self.time), shard, self.time) if self.time else [None] * len(batch)
        groups: Iterable[tuple[str | None, ...]] = zip(*values, strict=True) if values else [()] * len(batch)
        return zip(times, groups, strict=True)


def too_many_values(column: str) -> UsageError:
    """The error for a column of more than :data:`MAX_VALUES` values."""
    return UsageError(
        f"the column {shown(column)} has more than {MAX_VALUES} values, too many to be groups: name another one with --by."
    )


def _is_group(kind: pa.DataType) -> bool:
    from pyarrow import types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    checks = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null)
    return any(check(plain) for check in checks)


def _is_time(kind: pa.DataType) -> bool:
    from pyarrow import types

    checks = (types.is_timestamp, types.is_date, types.is_string, types.is_large_string, types.is_null)
    return any(check(kind) for check in checks)


def _group(value: Any) -> str | None:
    """A value as the name of a group, shortened, without control characters."""
    if value is None:
        return None
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)).strip()
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _times(column: pa.Array, shard: str, name: str) -> list[datetime | None]:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    try:
        if types.is_timestamp(column.type):
            wanted = pa.timestamp("us", column.type.tz)
            column = pc.cast(column, options=pc.CastOptions(wanted, allow_time_truncate=True))
            column = column.view(pa.timestamp("us"))  # stored as UTC; the zone need not be one that Python knows
        values = column.to_pylist()
    except (ValueError, OverflowError) as error:  # a number of days or seconds that is beyond Python's dates
        raise DataError(
            f"{shard}: a value in the column {shown(name)} is not between the years 1 and 9999: correct it, or leave it empty."
        ) from error
    return [_time(value, shard, name) for value in values]


def _time(value: Any, shard: str, name: str) -> datetime | None:
    """A value as UTC without a zone."""
    if value is None or value == "":
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{shard}: {shown(value)} in the column {shown(name)} is no time: write it like 2026-03-31T09:30:00."
        ) from error
    assert isinstance(moment, datetime)
    return moment
