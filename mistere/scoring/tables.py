"""The tables of results: a row for each turn, and a row for each call. None has a column of speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from mistere.common.errors import UsageError
from mistere.common.names import shown
from mistere.metrics.call_statistics import QUARTERS, CallStatistics, call_statistics
from mistere.scoring.call_columns import ArchiveColumns
from mistere.scoring.scored_dialogue import ScoredDialogue

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

CALL_ID: Final = "dialogue_id"
TIME: Final = "time"
_TURNS_AT_ONCE: Final = 16_384
_CALLS_AT_ONCE: Final = 4_096
_FIGURES: Final = (
    *("share", "share_low", "share_high", "share_error"),
    *(f"quarter{number + 1}" for number in range(QUARTERS)),
    *("trend", "trend_low", "trend_high", "peak"),
)
_TURNS: Final = ("first_turn", "last_turn", "peak_turn")
_FIXED: Final = (CALL_ID, "shard", TIME, "turns", "scored_turns", "model_version", "bundle_digest")


@dataclass(frozen=True)
class TableForm:
    """What decides the columns.

    Attributes:
        labels: in the order of the probabilities.
        experts: in the order of the weights.
        columns: the columns with the facts of calls.
        model_version: of the registry; empty if unknown.
        bundle_digest: of the model.
    """

    labels: Sequence[str]
    experts: Sequence[str]
    columns: ArchiveColumns
    model_version: str
    bundle_digest: str

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for label in self.labels:
            for name in (*_FIGURES, *_TURNS):
                if (other := owners.setdefault(figure(name, label), label)) != label:
                    raise UsageError(
                        f"the labels {shown(other)} and {shown(label)} would share the column {shown(figure(name, label))} of the results: "
                        "score with a model that calls one of them otherwise."
                    )
        own = {*_FIXED, *owners}
        for name in self.columns.by:
            if name in own:
                raise UsageError(
                    f"the results have a column {shown(name)} of their own: rename the one of the dataset."
                )

    def turns(self) -> pa.Schema:
        """The schema of the table of turns."""
        import pyarrow as pa

        return pa.schema(
            [
                (CALL_ID, pa.string()),
                ("turn", pa.int32()),
                ("label", pa.string()),
                *((probability(label), pa.float32()) for label in self.labels),
                *((f"weight_{expert}", pa.float32()) for expert in self.experts),
                ("modalities", pa.string()),
                ("model_version", pa.string()),
                ("bundle_digest", pa.string()),
            ]
        )

    def calls(self) -> pa.Schema:
        """The schema of the table of calls."""
        import pyarrow as pa

        return pa.schema(
            [
                (CALL_ID, pa.string()),
                ("shard", pa.string()),
                *([(TIME, pa.timestamp("us"))] if self.columns.time else []),
                *((name, pa.string()) for name in self.columns.by),
                ("turns", pa.int32()),
                ("scored_turns", pa.int32()),
                *((figure(name, label), pa.float64()) for label in self.labels for name in _FIGURES),
                *((figure(name, label), pa.int32()) for label in self.labels for name in _TURNS),
                ("model_version", pa.string()),
                ("bundle_digest", pa.string()),
            ]
        )


def probability(label: str) -> str:
    """The column of a label's probabilities."""
    return f"probability_{label}"


def figure(name: str, label: str) -> str:
    """The column of a figure of a label: ``share_anger``."""
    return f"{name}_{label}"


class _BufferedTable:
    """A parquet file that is written in large row groups, under a temporary name until it is complete."""

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        import pyarrow.parquet as pq

        self._path, self._schema, self._size = path, schema, rows
        self._partial = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer: pq.ParquetWriter = pq.ParquetWriter(self._partial, schema, compression="zstd")
        self._tables: list[pa.Table] = []
        self._rows = 0
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._rows += len(table)
        self.rows += len(table)
        if self._rows >= self._size:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables).combine_chunks())
            self._tables, self._rows = [], 0

    def finish(self) -> None:
        """Write the rest and give the file its name."""
        self._flush()
        self._writer.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Close and delete what was written."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)


class ShardTables:
    """The two tables of one shard, written in a stream. Used as a context; leaving it by an exception deletes both.

    Args:
        form: the columns.
        shard: name of the shard.
        turns: the file of turns, whose presence says that the shard is complete.
        calls: the file of calls.
    """

    def __init__(self, form: TableForm, shard: str, turns: Path, calls: Path) -> None:
        self._form, self._shard = form, shard
        self._turns = _BufferedTable(turns, form.turns(), _TURNS_AT_ONCE)
        self._calls = _BufferedTable(calls, form.calls(), _CALLS_AT_ONCE)
        self._pending: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._turns.discard()
            self._calls.discard()
            return
        self._flush_calls()
        self._calls.finish()
        self._turns.finish()

    @property
    def rows(self) -> tuple[int, int]:
        """Turns and calls written so far."""
        return self._turns.rows, self._calls.rows + len(self._pending)

    def add(self, dialogue: ScoredDialogue) -> None:
        """Write a dialogue's turns and its call."""
        self._turns.add(self._turn_rows(dialogue))
        self._pending.append(self._call_row(dialogue))
        if len(self._pending) >= _CALLS_AT_ONCE:
            self._flush_calls()

    def _flush_calls(self) -> None:
        import pyarrow as pa

        if self._pending:
            self._calls.add(pa.Table.from_pylist(self._pending, schema=self._form.calls()))
            self._pending = []

    def _turn_rows(self, dialogue: ScoredDialogue) -> pa.Table:
        import pyarrow as pa

        form, prediction = self._form, dialogue.prediction
        count = len(dialogue.turns)
        scored = dialogue.predicted if dialogue.readable else np.zeros(count, dtype=bool)
        most = prediction.probabilities.argmax(1).tolist()
        absent = ~scored
        numbers = [
            pa.array(column, pa.float32(), mask=absent)
            for matrix in (prediction.probabilities, prediction.expert_weights)
            for column in np.ascontiguousarray(matrix.T, dtype=np.float32)
        ]
        return pa.Table.from_arrays(
            [
                pa.array([turn.utterance.dialogue_id for turn in dialogue.turns], pa.string()),
                pa.array([turn.utterance.turn for turn in dialogue.turns], pa.int32()),
                pa.array(
                    [form.labels[index] if one else None for index, one in zip(most, scored, strict=True)], pa.string()
                ),
                *numbers,
                pa.array(prediction.modalities, pa.string()),
                pa.array([form.model_version] * count, pa.string()),
                pa.array([form.bundle_digest] * count, pa.string()),
            ],
            schema=form.turns(),
        )

    def _call_row(self, dialogue: ScoredDialogue) -> dict[str, Any]:
        form, first = self._form, dialogue.turns[0]
        scored = np.flatnonzero(dialogue.predicted) if dialogue.readable else np.empty(0, dtype=int)
        row: dict[str, Any] = {
            CALL_ID: first.utterance.dialogue_id,
            "shard": self._shard,
            "turns": len(dialogue.turns),
            "scored_turns": len(scored),
            "model_version": form.model_version,
            "bundle_digest": form.bundle_digest,
        }
        if form.columns.time:
            row[TIME] = next((turn.time for turn in dialogue.turns if turn.time is not None), None)
        for position, name in enumerate(form.columns.by):
            row[name] = next((turn.groups[position] for turn in dialogue.turns if turn.groups[position]), None)
        if len(scored):
            numbers = [turn.utterance.turn for turn in dialogue.turns]
            turns = np.array(numbers, dtype=np.int64)[scored]
            row |= _figures(call_statistics(dialogue.prediction.probabilities[scored]), turns, form.labels)
        return row


def _figures(statistics: CallStatistics, turns: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The columns of a call's figures; a value that does not exist is left out, which makes it null."""
    floats = {
        "share": statistics.share,
        "share_low": statistics.low,
        "share_high": statistics.high,
        "share_error": statistics.error,
        **{f"quarter{number + 1}": values for number, values in enumerate(statistics.quarters)},
        "trend": statistics.trend,
        "trend_low": statistics.trend_low,
        "trend_high": statistics.trend_high,
        "peak": statistics.peak,
    }
    indices = {"first_turn": statistics.first, "last_turn": statistics.last, "peak_turn": statistics.peak_at}
    row: dict[str, Any] = {}
    for name, values in floats.items():
        for label, value in zip(labels, values.tolist(), strict=True):
            if value == value:
                row[figure(name, label)] = value
    for name, places in indices.items():
        for label, place in zip(labels, places.tolist(), strict=True):
            if place >= 0:
                row[figure(name, label)] = int(turns[place])
    return row
