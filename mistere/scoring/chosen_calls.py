"""The calls that the page shows turn by turn: those in which an emotion rises most surely, and those with most of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from mistere.scoring.groups import call_batches
from mistere.scoring.tables import CALL_ID, TIME, figure, probability

PER_LABEL: Final = 2
LONG_ENOUGH: Final = 8
"""Turns from which a trend is one; shorter calls are chosen only where there are no others."""
_TURN: Final = "turn"


@dataclass(frozen=True)
class ChosenCall:
    """A call to look at.

    Attributes:
        dialogue: its id.
        shard: the shard whose table of turns holds it.
        label: index of the emotion that it was chosen for.
        reason: ``rises`` or ``most``.
        share: of the emotion.
        low: lower bound of the share.
        high: upper bound.
        trend: last quarter minus first; None in a short call.
        turns: its number of turns.
        time: when it was; None if unknown.
        groups: its value in each group column.
    """

    dialogue: str
    shard: str
    label: int
    reason: str
    share: float
    low: float
    high: float
    trend: float | None
    turns: int
    time: datetime | None
    groups: Mapping[str, str | None]


@dataclass(frozen=True)
class CallTimeline:
    """The probabilities ``[n, C]`` of a call's scored turns, and their numbers."""

    turns: list[int]
    probabilities: np.ndarray


def choose_calls(calls: Path, columns: Sequence[str], labels: Sequence[str]) -> list[ChosenCall]:
    """Choose calls for each emotion, in one pass over the table; no call twice.

    Args:
        calls: ``calls.parquet``.
        columns: the group columns.
        labels: the emotions.
    """
    figures = ("share", "share_low", "share_high", "trend", "trend_low")
    wanted = [*columns, "turns", "scored_turns", *(figure(name, label) for label in labels for name in figures)]
    best: dict[tuple[int, str], list[tuple[float, str, int, ChosenCall]]] = {}
    position = 0
    for batch in call_batches(calls, wanted):
        for index, label in enumerate(labels):
            for reason, column in (("rises", "trend_low"), ("most", "share_low")):
                scores = _scores(batch[figure(column, label)], batch["scored_turns"])
                heap = best.setdefault((index, reason), [])
                for row in _promising(scores, heap):
                    call = _call(batch, row, index, label, reason, columns)
                    heapq.heappush(heap, (float(scores[row]), call.dialogue, position + row, call))
                    if len(heap) > 2 * PER_LABEL:
                        heapq.heappop(heap)
        position += len(batch[CALL_ID])
    chosen: list[ChosenCall] = []
    seen: set[tuple[str, str]] = set()
    for key in sorted(best):
        taken = 0
        for _, _, _, call in sorted(best[key], key=lambda entry: (-entry[0], entry[1], entry[2])):
            if taken < PER_LABEL and (call.shard, call.dialogue) not in seen:
                seen.add((call.shard, call.dialogue))
                chosen.append(call)
                taken += 1
    return chosen


def read_timelines(
    turns_file: Callable[[str], Path], calls: Sequence[ChosenCall], labels: Sequence[str]
) -> dict[tuple[str, str], CallTimeline]:
    """The timelines of calls by shard and id.

    Args:
        turns_file: the table of a shard's turns.
        calls: the calls.
        labels: the emotions.
    """
    import pyarrow.parquet as pq

    timelines: dict[tuple[str, str], CallTimeline] = {}
    columns = [CALL_ID, _TURN, *(probability(label) for label in labels)]
    for shard in dict.fromkeys(call.shard for call in calls):
        names = sorted({call.dialogue for call in calls if call.shard == shard})
        table = pq.read_table(turns_file(shard), columns=columns, filters=[(CALL_ID, "in", names)])
        matrix = np.stack([table[probability(label)].to_numpy() for label in labels], axis=1).astype(np.float64)
        owners = np.array(table[CALL_ID].to_pylist(), dtype=object)
        turns = np.array(table[_TURN].to_pylist(), dtype=np.int64)
        for name in names:
            mine = (owners == name) & ~np.isnan(matrix).any(1)
            timelines[shard, name] = CallTimeline(turns[mine].tolist(), matrix[mine])
    return timelines


def _scores(values: Sequence[float | None], turns: Sequence[int]) -> np.ndarray:
    """Scores ``[n]``: those of long calls are above all others; 0 for a call without a positive value."""
    found = np.array(values, dtype=np.float64)
    found[np.isnan(found)] = 0.0
    return np.where(found > 0, found + (np.array(turns) >= LONG_ENOUGH), 0.0)


def _promising(scores: np.ndarray, heap: Sequence[tuple[float, Any, Any, Any]]) -> list[int]:
    """The rows that may be among the best, few of them."""
    least = heap[0][0] if len(heap) >= 2 * PER_LABEL else 0.0
    rows = np.flatnonzero(scores > least)
    if len(rows) > 2 * PER_LABEL:
        rows = rows[np.argsort(-scores[rows], kind="stable")[: 2 * PER_LABEL]]
    return [int(row) for row in rows]


def _call(
    batch: Mapping[str, list[Any]], row: int, index: int, label: str, reason: str, columns: Sequence[str]
) -> ChosenCall:
    return ChosenCall(
        dialogue=batch[CALL_ID][row],
        shard=batch["shard"][row],
        label=index,
        reason=reason,
        share=batch[figure("share", label)][row],
        low=batch[figure("share_low", label)][row],
        high=batch[figure("share_high", label)][row],
        trend=batch[figure("trend", label)][row],
        turns=batch["turns"][row],
        time=batch[TIME][row] if TIME in batch else None,
        groups={name: batch[name][row] for name in columns},
    )
