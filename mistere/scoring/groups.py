"""Shares of emotions by group and period, from the table of calls, with intervals and without small groups.

The share of a group is the mean of its calls' shares: each call counts once, however long it is. Its interval has two parts: how much
calls differ, and how uncertain the share of each call is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from mistere.metrics.call_statistics import NORMAL_95
from mistere.scoring.call_columns import MAX_VALUES, NO_VALUE, too_many_values
from mistere.scoring.tables import CALL_ID, TIME, figure

NO_DAY: Final = -(10**6)
_EPOCH: Final = date(1970, 1, 1)
_ROWS: Final = 8192
_LONGEST_BY_DAY: Final = 36
_LEAST_SKEW: Final = 1e-3


@dataclass(frozen=True)
class Estimates:
    """Shares of the emotions in a set of calls ``[C]``, with 95 % intervals.

    Attributes:
        calls: the number of calls.
        error: standard errors.
    """

    calls: int
    value: np.ndarray
    error: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """Lower bounds."""
        return np.maximum(self.value - NORMAL_95 * self.error, 0.0)

    @property
    def high(self) -> np.ndarray:
        """Upper bounds."""
        return np.minimum(self.value + NORMAL_95 * self.error, 1.0)


@dataclass(frozen=True)
class Sums:
    """Sums over calls: their number, and by emotion shares, squared shares, variances of shares and cubed shares ``[4, C]``."""

    calls: int
    values: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.calls + other.calls, self.values + other.values)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.calls - other.calls, self.values - other.values)

    def estimates(self) -> Estimates:
        """The means with their errors; at least two calls."""
        shares, squares, variances, _ = self.values
        mean = shares / self.calls
        between = np.maximum(squares - self.calls * mean**2, 0.0) / max(1, self.calls - 1)
        return Estimates(self.calls, mean, np.sqrt((between + variances / self.calls) / self.calls))


def difference_scores(before: Sums, after: Sums) -> np.ndarray:
    """Standard scores ``[C]`` of the shares of ``after`` minus those of ``before``, if both were calls of the same kind.

    Variance and skewness are those of all calls together. An emotion that is rare, but strong in a few calls, gives a small group a mean
    and a variance that are both low by chance, and a mean whose distribution has a long upper tail; the normal distribution and the
    group's own variance would find differences everywhere. The tail is that of a gamma distribution (Wilson and Hilferty, 1931).
    """
    both = before + after
    mean, squares, _, cubes = both.values / both.calls
    variance = np.maximum(squares - mean**2, 0.0) * both.calls / (both.calls - 1)
    third = cubes - 3 * mean * squares + 2 * mean**3
    spread = np.sqrt(
        variance * (1 / before.calls + 1 / after.calls)
        + before.values[2] / before.calls**2
        + after.values[2] / after.calls**2
    )
    known = spread > 0
    spread = np.where(known, spread, 1.0)
    difference = after.values[0] / after.calls - before.values[0] / before.calls
    score = np.where(known, difference / spread, 0.0)
    skew = np.where(known, third * (1 / after.calls**2 - 1 / before.calls**2) / spread**3, 0.0)
    skewed = np.abs(skew) > _LEAST_SKEW
    shape = 4 / np.where(skewed, skew, 1.0) ** 2
    ratio = np.maximum(1 + np.sign(skew) * score / np.sqrt(shape), 0.0)
    normal = 3 * np.sqrt(shape) * (np.cbrt(ratio) - 1 + 1 / (9 * shape))
    return np.where(skewed, np.sign(skew) * normal, score)


@dataclass(frozen=True)
class Change:
    """How the share of an emotion differs between two sets of calls.

    Attributes:
        column: the group's column.
        group: its value.
        label: index of the emotion.
        before: share in the earlier half of the calls, or in all other groups.
        after: share in the later half, or in the group.
        low: lower bound of the difference's 95 % interval.
        high: upper bound.
        clear: whether the difference is one even though many were looked at (Bonferroni).
    """

    column: str
    group: str
    label: int
    before: float
    after: float
    low: float
    high: float
    clear: bool

    @property
    def difference(self) -> float:
        """After minus before."""
        return self.after - self.before


@dataclass(frozen=True)
class Period:
    """A day, or a week from Monday on."""

    start: date
    estimates: Estimates


@dataclass(frozen=True)
class Groups:
    """The groups of a column.

    Attributes:
        named: those that are reported by their names, the largest first.
        joined: how many are too small for that.
        rest: the calls of those; None if they are not reported, or there are none.
    """

    named: dict[str, Estimates]
    joined: int
    rest: Estimates | None


class GroupedCalls:
    """Sums of calls by group and day.

    Args:
        columns: the group columns.
        labels: the emotions.
        min_calls: sets of fewer calls are not reported.
    """

    def __init__(self, columns: Sequence[str], labels: Sequence[str], min_calls: int) -> None:
        self.columns, self.labels, self.min_calls = tuple(columns), tuple(labels), min_calls
        empty = np.zeros((4, len(labels)))
        self.total = Sums(0, empty)
        self._empty = Sums(0, empty)
        self._days: dict[int, Sums] = {}
        self._groups: dict[str, dict[str, dict[int, Sums]]] = {name: {} for name in columns}

    @classmethod
    def read(cls, calls: Path, columns: Sequence[str], labels: Sequence[str], min_calls: int) -> GroupedCalls:
        """Read a table of calls in a stream.

        Raises:
            UsageError: a column has too many values to be one of groups.
        """
        grouped = cls(columns, labels, min_calls)
        for batch in call_batches(
            calls, [*columns, *(figure(f, la) for la in labels for f in ("share", "share_error"))]
        ):
            grouped._add(batch)
        return grouped

    def _add(self, batch: Mapping[str, list[Any]]) -> None:
        shares = np.array([batch[figure("share", label)] for label in self.labels], dtype=np.float64).T
        errors = np.array([batch[figure("share_error", label)] for label in self.labels], dtype=np.float64).T
        scored = ~np.isnan(shares[:, 0]) if len(shares) else np.zeros(0, dtype=bool)
        values = np.stack([shares, shares**2, errors**2, shares**3], axis=1)[scored]
        times = batch.get(TIME)
        days = np.array([NO_DAY if t is None else (t.date() - _EPOCH).days for t in times or [None] * len(scored)])[
            scored
        ]
        self.total += Sums(len(values), values.sum(0))
        for day, part in _split(days, values):
            self._days[int(day)] = self._days.get(int(day), self._empty) + part
        for name in self.columns:
            names = [value or NO_VALUE for value, one in zip(batch[name], scored, strict=True) if one]
            index = {value: number for number, value in enumerate(dict.fromkeys(names))}
            codes = np.array([index[value] for value in names], dtype=np.int64)
            groups = self._groups[name]
            for value, code in index.items():
                mine = codes == code
                by_day = groups.setdefault(value, {})
                for day, part in _split(days[mine], values[mine]):
                    by_day[int(day)] = by_day.get(int(day), self._empty) + part
            if len(groups) > MAX_VALUES:
                raise too_many_values(name)

    @property
    def has_times(self) -> bool:
        """Whether some calls have a time."""
        return any(day != NO_DAY for day in self._days)

    @property
    def by_week(self) -> bool:
        """Whether periods are weeks: eight of ten calls span more than five of them. A few wrong times do not decide."""
        first, last = self._day_of_share(0.1), self._day_of_share(0.9)
        return first is not None and last is not None and last - first >= _LONGEST_BY_DAY

    def overall(self) -> Estimates | None:
        """All calls; None if they are too few."""
        return self._reported(self.total)

    def periods(self, column: str = "", group: str = "") -> list[Period | date]:
        """The periods of all calls or of a group, in order; of one that is too small only its start."""
        return self._periods(self._groups[column][group] if column else self._days)

    def groups(self, column: str) -> Groups:
        """The groups of a column.

        A remainder that is itself too small takes in the next groups, so that no small group follows from the total.
        """
        kept, joined = self._kept(column)
        rest = sum((self._sum(column, name) for name in joined), self._empty)
        return Groups({name: sums.estimates() for name, sums in kept.items()}, len(joined), self._reported(rest))

    def named_groups(self, column: str) -> list[str]:
        """The groups of a column that are reported by their names, the largest first."""
        return list(self._kept(column)[0])

    def changes(self) -> list[Change]:
        """Differences of all groups that are large enough on both sides, the clearest first.

        With times, the later half of the calls is compared with the earlier one; without, each group with all other calls.
        """
        pairs: list[tuple[str, str, Sums, Sums]] = []
        for column in self.columns:
            for name in self.named_groups(column):
                days = self._groups[column][name]
                if self.has_times:
                    middle = self._middle()
                    known = {day: sums for day, sums in days.items() if day != NO_DAY}
                    before = sum((sums for day, sums in known.items() if day < middle), self._empty)
                    after = sum((sums for day, sums in known.items() if day >= middle), self._empty)
                else:
                    after = self._sum(column, name)
                    before = self.total - after
                if min(before.calls, after.calls) >= self.min_calls:
                    pairs.append((column, name, before, after))
        looks = max(1, len(pairs) * len(self.labels))
        clear = NormalDist().inv_cdf(1 - 0.025 / looks)
        found: list[tuple[float, Change]] = []
        for column, name, before, after in pairs:
            one, other = before.estimates(), after.estimates()
            error = np.sqrt(one.error**2 + other.error**2)
            scores = np.abs(difference_scores(before, after)).tolist()
            for index in range(len(self.labels)):
                difference = float(other.value[index] - one.value[index])
                margin = NORMAL_95 * float(error[index])
                found.append(
                    (
                        scores[index],
                        Change(
                            column, name, index, float(one.value[index]), float(other.value[index]),
                            difference - margin, difference + margin, scores[index] > clear,
                        ),
                    )
                )  # fmt: skip
        return [change for _, change in sorted(found, key=lambda pair: -pair[0])]

    def halves(self) -> tuple[date, date, date] | None:
        """The first day, the first day of the later half, and the last day; None without times."""
        days = self._known_days()
        if not days:
            return None
        return _day(days[0]), _day(self._middle()), _day(days[-1])

    def _middle(self) -> int:
        """The day before which as nearly as possible half of the calls are. The middle of the span would follow one wrong time."""
        days = self._known_days()
        calls = np.array([self._days[day].calls for day in days])
        before = np.cumsum(calls) - calls
        uneven = np.abs(2 * before - calls.sum())
        return days[1 + int(uneven[1:].argmin())] if len(days) > 1 else days[0]

    def _day_of_share(self, share: float) -> int | None:
        """The day by which a share of the calls has been; None without times."""
        days = self._known_days()
        reached = np.cumsum([self._days[day].calls for day in days])
        return days[int(np.searchsorted(reached, share * reached[-1]))] if days else None

    def _known_days(self) -> list[int]:
        return sorted(day for day in self._days if day != NO_DAY)

    def _sum(self, column: str, group: str) -> Sums:
        return sum(self._groups[column][group].values(), self._empty)

    def _kept(self, column: str) -> tuple[dict[str, Sums], list[str]]:
        sums = {name: self._sum(column, name) for name in self._groups[column]}
        order = sorted(sums, key=lambda name: (-sums[name].calls, name))
        kept = [name for name in order if sums[name].calls >= self.min_calls]
        joined = [name for name in order if sums[name].calls < self.min_calls]
        while kept and 0 < sum(sums[name].calls for name in joined) < self.min_calls:
            joined.insert(0, kept.pop())
        return {name: sums[name] for name in kept}, joined

    def _reported(self, sums: Sums) -> Estimates | None:
        return sums.estimates() if sums.calls >= self.min_calls else None

    def _periods(self, days: Mapping[int, Sums]) -> list[Period | date]:
        periods: dict[date, Sums] = {}
        for day, sums in days.items():
            if day != NO_DAY:
                start = _day(day)
                if self.by_week:
                    start -= timedelta(days=start.weekday())
                periods[start] = periods.get(start, self._empty) + sums
        return [
            Period(start, estimates) if (estimates := self._reported(periods[start])) is not None else start
            for start in sorted(periods)
        ]


def call_batches(calls: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """The table of calls in parts: lists by column, with the id, the shard and, if there is one, the time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(calls) as file:
        names = set(file.schema_arrow.names)
        wanted = [CALL_ID, "shard", *([TIME] if TIME in names else []), *columns]
        for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys(wanted))):
            yield batch.to_pydict()


def _split(codes: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, Sums]]:
    """Sums of the rows with each code."""
    for code in np.unique(codes):
        mine = values[codes == code]
        yield int(code), Sums(len(mine), mine.sum(0))


def _day(number: int) -> date:
    return _EPOCH + timedelta(days=number)
