"""Setting dialogues aside instead of rejecting the whole dataset, in a file that a person can mend and bring back.

A finding is about a row; what is set aside is its dialogue, for a conversation with a hole is another conversation. The file
has the columns of the dataset form, its split, and ``problem``; mended, ``mistere data import table FILE NEW --base OLD`` puts
its dialogues back into the dataset, in place of their namesakes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.validate_data.facts.tables import ShardFile
from components.validate_data.suite import ExpectationOutcome
from mistere.common.splits import SPLITS
from mistere.data.dataset import read_batches, schema

if TYPE_CHECKING:
    import pandas as pd

QUARANTINE_FILE = "quarantine.parquet"

Names = dict[str, frozenset[str]]
"""Dialogues by split."""


def to_blame(outcomes: Sequence[ExpectationOutcome], tables: Mapping[str, pd.DataFrame]) -> Names | None:
    """The dialogues without which no blocking finding would be left; None where that cannot be said.

    Of dialogues and recordings that two splits share, those of the earlier split go: the test set stays what it was.

    Args:
        outcomes: of all expectations.
        tables: the tables they looked at.
    """
    found: dict[str, set[str]] = {split: set() for split in SPLITS}
    rows = tables["utterances"]
    for outcome in outcomes:
        if outcome.status != "fail":
            continue
        failing = tables[outcome.rule.table].loc[list(outcome.failing)]
        if outcome.rule.table in {"utterances", "dialogues"}:
            guilty = failing[["split", "dialogue_id"]]
            if not len(guilty) or guilty["dialogue_id"].isna().any():
                return None
        elif outcome.rule.table == "dialogue_names":
            guilty = _of_earlier_splits(rows[rows["dialogue_id"].isin(failing["name"])], "dialogue_id")
        elif outcome.rule.table == "conversations":
            guilty = failing[["twin_split", "twin"]].set_axis(["split", "dialogue_id"], axis=1)
        elif outcome.rule.table == "recordings":
            guilty = _of_earlier_splits(rows[rows["sound"].isin(failing["sound"])], "sound")
        else:
            return None
        for split, dialogue in guilty.drop_duplicates().itertuples(index=False):
            found[split].add(dialogue)
    return {split: frozenset(names) for split, names in found.items() if names}


def _of_earlier_splits(rows: pd.DataFrame, same: str) -> pd.DataFrame:
    """Of rows that are the same in several splits, those that are not in the last of these splits."""
    order = rows["split"].map(SPLITS.index)
    return rows.loc[order < order.groupby(rows[same]).transform("max"), ["split", "dialogue_id"]]


def problems(outcomes: Sequence[ExpectationOutcome], rows: pd.DataFrame) -> dict[tuple[str, int], str]:
    """What is wrong with single utterances, in words, by shard and row."""
    found: dict[tuple[str, int], list[str]] = {}
    for outcome in outcomes:
        if outcome.status == "fail" and outcome.rule.table == "utterances":
            for shard, row in rows.loc[list(outcome.failing), ["shard", "row"]].itertuples(index=False):
                found.setdefault((shard, int(row)), []).append(outcome.rule.title)
    return {place: "; ".join(f"not met: {title}" for title in titles) for place, titles in found.items()}


def write_quarantine(path: Path, files: Sequence[ShardFile], aside: Names, said: Mapping[tuple[str, int], str]) -> int:
    """Write the dialogues that are set aside, in a stream; returns the number of utterances.

    Args:
        path: the file.
        files: the dataset's shards.
        aside: the dialogues.
        said: what is wrong with single utterances, by shard and row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    form = schema()
    columns = pa.schema([("split", pa.string()), *form, ("problem", pa.string())])
    total = 0
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        for file in files:
            names = aside.get(file.split)
            if not names:
                continue
            first = 0
            for batch in read_batches([file.path], form.names):
                numbers = pa.array(range(first, first + batch.num_rows))
                first += batch.num_rows
                chosen = pc.is_in(batch.column("dialogue_id").cast(pa.string()), pa.array(sorted(names)))
                table = pa.Table.from_batches([batch]).append_column("_row", numbers).filter(chosen)
                if not len(table):
                    continue
                rows = table["_row"].to_pylist()
                values = [
                    table[field.name].cast(field.type)
                    if field.name in table.column_names
                    else pa.nulls(len(table), field.type)
                    for field in form
                ]
                problem = pa.array([said.get((file.name, row)) for row in rows], pa.string())
                split = pa.array([file.split] * len(table), pa.string())
                writer.write_table(pa.Table.from_arrays([split, *values, problem], schema=columns))
                total += len(table)
    return total
