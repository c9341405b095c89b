"""Check an archive before it is scored, by its light columns: what is wrong with a row must not show after hours."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence

from mistere.common.errors import DataError
from mistere.common.names import shown
from mistere.data.dataset import read_batches
from mistere.scoring.archive import INFO_FILE, Archive, DialogueOrder, goes_on, turns_apart
from mistere.scoring.call_columns import MAX_VALUES, NO_VALUE, ArchiveColumns, too_many_values

_ROWS = 4096
_MOST_ROLES = 10


def check_rows(
    archive: Archive,
    shards: Sequence[str],
    columns: ArchiveColumns,
    on_rows: Callable[[int], None] = lambda _: None,
) -> None:
    """Check the rows of consecutive shards: ids, turns, their order, times and groups.

    Eight bytes are held for each dialogue.

    Args:
        archive: the archive.
        shards: names of the shards.
        columns: the columns with the facts of calls.
        on_rows: called with the number of rows read so far.

    Raises:
        UsageError: a shard lacks a column, or one has too many values to be one of groups.
        DataError: a row does not say where it belongs, or has no valid time, or the turns of a dialogue are not in order.
    """
    groups, rows = _GroupValues(columns), 0
    for run in _runs(shards):
        order, ids = DialogueOrder(), array("q")
        for shard in run:
            archive.check_columns(shard, columns)
            for batch in read_batches([archive.path(shard)], ["dialogue_id", "turn", *columns.names], _ROWS):
                names, turns = (batch.column(name).to_pylist() for name in ("dialogue_id", "turn"))
                for name, turn, (_, values) in zip(names, turns, columns.values(batch, shard), strict=True):
                    if order.add(shard, name, turn):
                        ids.append(hash(name))
                        groups.end_call()
                    groups.add(values)
                rows += len(batch)
                on_rows(rows)
        groups.end_call()
        _check_distinct(archive, run, ids)


def _runs(shards: Sequence[str]) -> list[list[str]]:
    """The shards in runs, in each of which dialogues may go on in the next shard."""
    runs: list[list[str]] = []
    for shard in shards:
        if runs and goes_on(runs[-1][-1], shard):
            runs[-1].append(shard)
        else:
            runs.append([shard])
    return runs


def check_files(archive: Archive) -> None:
    """Refuse an archive with parquet files that are no shards, so that no calls are left out unnoticed.

    Raises:
        DataError: there is such a file.
    """
    if archive.unread:
        raise DataError(
            f"{shown(archive.unread[0])} would be left out, because shards lie beside {INFO_FILE} and end in .parquet: move or rename it, or "
            "take it out of the dataset."
        )


def check_roles(archive: Archive) -> None:
    """Check that some turn of an archive is to be predicted; its shards are read up to the first such turn.

    Raises:
        DataError: none has a role that ``dataset.yaml`` names.
    """
    wanted = archive.info.predict_roles
    if not wanted:
        return
    occurring: set[str] = set()
    for shard in archive.shards:
        for batch in read_batches([archive.path(shard)], ["dialogue_id", "role"], _ROWS):
            if "role" in batch.schema.names:
                occurring |= {role for role in batch.column("role").unique().to_pylist() if isinstance(role, str)}
                if not occurring.isdisjoint(wanted):
                    return
    others = ", ".join(shown(role) for role in sorted(occurring)[:_MOST_ROLES]) or "none"
    raise DataError(
        f"no turn of the dataset {archive.info.name} has a role of predict_roles in {INFO_FILE} ({', '.join(map(shown, wanted))}); "
        f"those that occur are {others}: correct predict_roles, or remove it to have every turn predicted."
    )


class _GroupValues:
    """Counts the values of each group column; of a call, the first one counts, as in the table of calls."""

    def __init__(self, columns: ArchiveColumns) -> None:
        self._columns = columns.by
        self._values: list[set[str]] = [set() for _ in columns.by]
        self._call: list[str | None] | None = None

    def add(self, values: Sequence[str | None]) -> None:
        """The values of a turn."""
        self._call = [known or value for known, value in zip(self._call or [None] * len(values), values, strict=True)]

    def end_call(self) -> None:
        """Count the values of the call whose turns were added."""
        if self._call is None:
            return
        for name, values, value in zip(self._columns, self._values, self._call, strict=True):
            values.add(value or NO_VALUE)
            if len(values) > MAX_VALUES:
                raise too_many_values(name)
        self._call = None


def _check_distinct(archive: Archive, shards: Sequence[str], hashes: array[int]) -> None:
    """Refuse a dialogue that begins twice in a run."""
    import numpy as np

    found, counts = np.unique(np.asarray(hashes), return_counts=True)
    repeated = set(found[counts > 1].tolist())
    if not repeated:
        return
    seen: dict[str, str] = {}
    for shard, name in _beginnings(archive, shards):
        if name in seen:
            raise turns_apart(shard, name, seen[name])
        if hash(name) in repeated:
            seen[name] = shard


def _beginnings(archive: Archive, shards: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The dialogues of a run, each where it begins, with its shard."""
    last = None
    for shard in shards:
        for batch in read_batches([archive.path(shard)], ["dialogue_id"], _ROWS):
            for name in batch.column("dialogue_id").to_pylist():
                if name != last:
                    yield shard, name
                last = name
