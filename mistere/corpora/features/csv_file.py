"""Features in a CSV file: a column with the utterance's name, times if there are any, and numbers.

openSMILE, DisVoice and pandas write such files. Rows with the same name are the frames of one utterance or dialogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from mistere.common.counting import counted
from mistere.common.errors import DataError, UsageError
from mistere.corpora.delimited import Record, read_records
from mistere.corpora.features.sequences import Frames, grouped
from mistere.corpora.text_files import read_lines
from mistere.data.kinds.vector import MAX_WIDTH

_NAME_COLUMNS: Final = ("utterance", "utterance_id", "name", "segment", "file", "filename", "id")
_PAIR: Final = ("dialogue_id", "turn")
_START, _END = "start", "end"
_NO_FEATURES: Final = frozenset({_START, _END, "frametime", "frameindex", "frame", "timestamp"})
_MAX_CELLS = 2**28
"""Numbers of one file, which are 1 GiB."""


class CsvFile:
    """A CSV file with a header.

    Raises:
        UsageError: it has no column with names.
        DataError: it has no numbers, or a cell that is no number.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        records = read_records(path, _delimiter(path), hint="write a quote inside of a field twice")
        header = next(records, None)
        columns = [cell.strip().lower() for cell in header.cells] if header is not None else []
        keys = self._key_columns(columns)
        timed = [columns.index(name) for name in (_START, _END)] if {_START, _END} <= set(columns) else []
        numbers = [at for at, name in enumerate(columns) if at not in keys and name not in _NO_FEATURES]
        if not numbers or len(numbers) > MAX_WIDTH:
            raise DataError(f"{path} has {counted(len(numbers), 'column')} of features; 1 to {MAX_WIDTH} are expected.")
        names, rows, times = [], [], []
        for record in records:
            if len(record.cells) != len(columns):
                raise DataError(
                    f"{path}, {record.position}: {len(record.cells)} fields, where the header has {len(columns)}."
                )
            names.append("/".join(_name(record.cells[at], columns[at]) for at in keys))
            with np.errstate(over="ignore"):
                rows.append(np.array([self._number(record, columns, at) for at in numbers]).astype(np.float32))
            times.append([_seconds(record.cells[at]) for at in timed])
            if len(rows) * len(numbers) > _MAX_CELLS:
                raise DataError(f"{path} has more than {_MAX_CELLS} numbers: use npz, or a file for each modality.")
        if not rows:
            raise DataError(f"{path} has a header and no rows: write a row for each utterance.")
        intervals = np.array(times, dtype=np.float64)
        usable = bool(timed) and bool(np.isfinite(intervals).all())
        self._frames = grouped(names, np.stack(rows), intervals if usable else None)

    def frames(self, name: str) -> Frames | None:
        """See :class:`~mistere.corpora.features.sequences.FeatureFile`."""
        return self._frames.get(name)

    def names(self) -> list[str]:
        """See :class:`~mistere.corpora.features.sequences.FeatureFile`."""
        return list(self._frames)

    def _key_columns(self, columns: Sequence[str]) -> list[int]:
        if set(_PAIR) <= set(columns):
            return [columns.index(name) for name in _PAIR]
        for name in _NAME_COLUMNS:
            if name in columns:
                return [columns.index(name)]
        raise UsageError(
            f"{self._path} has no column with the utterances' names: call it utterance, or add dialogue_id and turn."
        )

    def _number(self, record: Record, columns: Sequence[str], at: int) -> float:
        cell = record.cells[at].strip()
        try:
            return float(cell) if cell else math.nan
        except ValueError:
            raise DataError(
                f"{self._path}, {record.position}: {columns[at][:40]} is {cell[:40]!r}, not a number: leave the column out."
            ) from None


def _delimiter(path: Path) -> str:
    """The delimiter that occurs most in the header."""
    header = next((line for line in read_lines(path) if line.strip()), "")
    return max((",", ";", "\t"), key=header.count)


def _name(cell: str, column: str) -> str:
    """A name without the quotes that openSMILE writes; a file's without folder and extension, a turn's as a whole number."""
    cell = cell.strip().strip("'")
    if column in ("file", "filename"):
        return re.sub(r"\.\w{1,5}$", "", cell.replace("\\", "/").rpartition("/")[2])
    return re.sub(r"\.0+$", "", cell) if column == "turn" else cell


def _seconds(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
