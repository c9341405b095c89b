"""The facts a dataset is judged by: tables of numbers and names, one streaming pass over the shards, no audio kept.

Nothing here raises for a damaged dataset: a file that can't be read, a column that is missing or of the wrong type
and a recording that does not decode are facts like any other, for the expectations to judge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.audio import AudioError, EmptyAudioError, clipped_share, decode, rms_dbfs
from components.core.dataset import REQUIRED_COLUMNS, SPLITS, Split, read_batches
from components.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

EXPECTED_TYPES = {
    "dialogue_id": "text",
    "turn": "a whole number",
    "label": "text",
    "text": "text",
    "audio": "a struct with the encoded file in its field 'bytes'",
    "speaker": "text",
}
_BATCH_ROWS = 32
_AUDIO_FACTS = ("embedded", "non_empty", "decodes", "rate", "seconds", "rms_dbfs", "clipped")


@dataclass(frozen=True)
class Facts:
    """What was found in a dataset.

    Attributes:
        shards: one row a file: split, shard, readable, reason.
        columns: one row a file and column: split, shard, column, expected, found, status (``ok``, ``missing`` or
            ``wrong type``).
        utterances: one row an utterance, in file order: split, shard, row, dialogue_id, turn, label, speaker,
            text_length (characters), has_audio, embedded, non_empty, decodes, rate (Hz), seconds, rms_dbfs,
            clipped (share of samples), in_order. Empty where a fact does not apply.
        dialogues: one row a split and dialogue: utterances, turns_complete, has_content.
        dialogue_names: one row a dialogue name: splits, split_count.
        speakers: one row a speaker: splits, split_count.
    """

    shards: pd.DataFrame
    columns: pd.DataFrame
    utterances: pd.DataFrame
    dialogues: pd.DataFrame
    dialogue_names: pd.DataFrame
    speakers: pd.DataFrame


def gather(
    shards: Mapping[Split, Sequence[Path]],
    *,
    names: Mapping[Split, Sequence[str]] | None = None,
    dialogues: Mapping[Split, frozenset[str] | None] | None = None,
    on_progress: Callable[[str, float, float], None] | None = None,
) -> Facts:
    """Read a dataset once and collect its facts; memory grows by a few hundred bytes an utterance.

    Args:
        shards: parquet files of each split, in row order.
        names: what to call them, in the same order; their file names where left out.
        dialogues: the dialogues in use, per split; None for all of them.
        on_progress: told ``(message, done, total)`` in utterances.
    """
    import pandas as pd

    files = [
        (split, path, names[split][index] if names else path.name)
        for split in SPLITS
        for index, path in enumerate(shards.get(split, ()))
    ]
    total = sum(_row_count(path) for _, path, _ in files)
    shard_rows: list[dict[str, Any]] = []
    column_rows: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    done = 0
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for split, path, name in files:
            reason = ""
            wanted = (dialogues or {}).get(split)
            try:
                usable, described = _columns_of(path)
                column_rows += [
                    {"split": split, "shard": name, "expected": EXPECTED_TYPES[row["column"]], **row}
                    for row in described
                ]
                for first, batch in _numbered(path, usable):
                    rows += [(split, name, *row) for row in _rows_of(batch, first, wanted, pool)]
                    done += batch.num_rows
                    if on_progress is not None:
                        on_progress(f"{done} of {total} utterances read", done, total)
            except _unreadable() as error:
                reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            shard_rows.append({"split": split, "shard": name, "readable": not reason, "reason": reason})
    table = pd.DataFrame(rows, columns=_UTTERANCE_COLUMNS)
    for column in ("turn", "text_length", "rate", "seconds", "rms_dbfs", "clipped"):
        table[column] = table[column].astype("float64")
    table["in_order"] = _in_order(table)
    return Facts(
        shards=pd.DataFrame(shard_rows, columns=["split", "shard", "readable", "reason"]),
        columns=pd.DataFrame(column_rows, columns=["split", "shard", "column", "expected", "found", "status"]),
        utterances=table,
        dialogues=_dialogues(table),
        dialogue_names=_splits_of(table, "dialogue_id"),
        speakers=_splits_of(table, "speaker"),
    )


_UTTERANCE_COLUMNS = [
    *("split", "shard", "row", "dialogue_id", "turn", "label", "speaker", "text_length", "has_audio"),
    *_AUDIO_FACTS,
]


def _unreadable() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (DataError, pa.ArrowException, OSError, UnicodeDecodeError)


def _row_count(path: Path) -> int:
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except _unreadable():
        return 0


def _fits(column: str, kind: pa.DataType) -> bool:
    """Whether an Arrow type can hold what the column is for."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return column not in REQUIRED_COLUMNS
    if column == "turn":
        return bool(types.is_integer(kind))
    if column == "audio":
        if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            return False
        kind = kind.field("bytes").type
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind))
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _columns_of(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a file that can be used, and what was found of each that the dataset form knows."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    usable, described = [], []
    for column in EXPECTED_TYPES:
        if column not in schema.names:
            if column in REQUIRED_COLUMNS:
                described.append({"column": column, "status": "missing", "found": ""})
            continue
        single = schema.names.count(column) == 1
        found = str(schema.field(column).type) if single else "several columns of that name"
        fits = single and _fits(column, schema.field(column).type)
        described.append({"column": column, "status": "ok" if fits else "wrong type", "found": found})
        if fits:
            usable.append(column)
    return usable, described


def _numbered(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    for batch in read_batches([path], columns, batch_rows=_BATCH_ROWS):
        yield first, batch
        first += batch.num_rows


def _rows_of(
    batch: pa.RecordBatch, first: int, dialogues: frozenset[str] | None, pool: ThreadPoolExecutor
) -> list[tuple[Any, ...]]:
    present = set(batch.schema.names)
    plain = {
        name: batch.column(name).to_pylist() if name in present else [None] * batch.num_rows
        for name in ("dialogue_id", "turn", "label", "text", "speaker")
    }
    keep = range(batch.num_rows)
    if dialogues is not None and "dialogue_id" in present:
        keep = [index for index in keep if plain["dialogue_id"][index] in dialogues]  # type: ignore[assignment]
    audio = batch.column("audio") if "audio" in present else None
    heard = list(pool.map(partial(_hear, audio), keep))
    return [
        (
            first + index,
            plain["dialogue_id"][index],
            plain["turn"][index],
            plain["label"][index],
            (plain["speaker"][index] or "").strip() or None,
            len((plain["text"][index] or "").strip()),
            *facts,
        )
        for index, facts in zip(keep, heard, strict=True)
    ]


def _hear(audio: pa.StructArray | None, index: int) -> tuple[Any, ...]:
    """``has_audio`` and the audio facts of one row; the bytes and the samples are let go here."""
    held = None if audio is None else audio[index].as_py()
    data = (held or {}).get("bytes")
    if data is None:
        if not (held or {}).get("path"):
            return (False, *[None] * len(_AUDIO_FACTS))
        return (True, False, *[None] * 6)
    try:
        wave, rate = decode(data)
    except EmptyAudioError:
        return (True, True, False, *[None] * 5)
    except AudioError:
        return (True, True, True, False, *[None] * 4)
    return (True, True, True, True, rate, wave.size / rate, rms_dbfs(wave), clipped_share(wave))


def _in_order(table: pd.DataFrame) -> pd.Series[bool]:
    """For each row: its dialogue's rows lie together and their turns do not go back."""
    names = table["dialogue_id"].fillna("")
    block = ((names != names.shift()) | (table["split"] != table["split"].shift())).cumsum()
    groups = [table["split"], names]
    together = block == block.groupby(groups).transform("first")
    back = table["turn"] < table.groupby(groups)["turn"].shift()
    return (together & ~back) | table["dialogue_id"].isna()


def _dialogues(table: pd.DataFrame) -> pd.DataFrame:
    named = table[table["dialogue_id"].notna()]
    named = named.assign(content=(named["text_length"] > 0) | named["has_audio"].astype(bool))
    found = named.groupby(["split", "dialogue_id"], sort=True).agg(
        utterances=("turn", "size"),
        first=("turn", "min"),
        last=("turn", "max"),
        turns=("turn", "nunique"),
        has_content=("content", "any"),
    )
    numbered = (found["first"] == 0) & (found["last"] == found["turns"] - 1)
    found["turns_complete"] = numbered | (found["turns"] == 0)
    return found.reset_index()


def _splits_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a name: the splits it occurs in, in their usual order."""
    import pandas as pd

    seen: dict[str, set[str]] = {}
    pairs = table.loc[table[column].notna(), [column, "split"]].drop_duplicates()
    for name, split in pairs.itertuples(index=False):
        seen.setdefault(name, set()).add(split)
    rows = [
        {"name": name, "splits": " and ".join(split for split in SPLITS if split in found), "split_count": len(found)}
        for name, found in sorted(seen.items())
    ]
    return pd.DataFrame(rows, columns=["name", "splits", "split_count"])
