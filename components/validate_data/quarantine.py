"""Setting dialogues aside instead of rejecting the whole dataset, in a file that a person can fix and bring back.

A finding is about a row, but its whole dialogue is quarantined: a dialogue with a gap is a different dialogue. The file has the
columns of the dataset form, the split, and ``problem``; once it is fixed, ``mistere data import table FILE NEW --base OLD``
puts its dialogues back into the dataset, replacing those of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.suite import ExpectationOutcome
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet
from mistere.common.splits import SPLITS
from mistere.data.dataset import OPTIONAL_COLUMNS, read_batches, schema

if TYPE_CHECKING:
    import pandas as pd

QUARANTINE_FILE = "quarantine.parquet"

Names = dict[str, frozenset[str]]
"""Dialogues by split."""


def affected_dialogues(outcomes: Sequence[ExpectationOutcome], tables: Mapping[str, pd.DataFrame]) -> Names | None:
    """The dialogues to remove so that no blocking finding remains; None if findings do not name dialogues.

    Of dialogues and recordings that two splits share, those of the earlier split are removed: the test set does not change.

    Args:
        outcomes: of all expectations.
        tables: the tables that they checked.
    """
    names: dict[str, set[str]] = {split: set() for split in SPLITS}
    rows = tables["utterances"]
    for outcome in outcomes:
        if outcome.status != "fail":
            continue
        failing = tables[outcome.rule.table].loc[list(outcome.failing)]
        if outcome.rule.table in {"utterances", "cells", "dialogues"}:
            affected = failing[["split", "dialogue_id"]]
            if not len(affected) or affected["dialogue_id"].isna().any():
                return None
        elif outcome.rule.table == "dialogue_names":
            affected = _of_earlier_splits(rows[rows["dialogue_id"].isin(failing["name"])], "dialogue_id")
        elif outcome.rule.table == "conversations":
            affected = failing[["twin_split", "twin"]].set_axis(["split", "dialogue_id"], axis=1)
        elif outcome.rule.table == "recordings":
            affected = _of_earlier_splits(rows[rows["sound"].isin(failing["sound"])], "sound")
        else:
            return None
        for split, dialogue in affected.drop_duplicates().itertuples(index=False):
            names[split].add(dialogue)
    return {split: frozenset(dialogues) for split, dialogues in names.items() if dialogues}


def _of_earlier_splits(rows: pd.DataFrame, same: str) -> pd.DataFrame:
    """Of rows that are the same in several splits, those that are not in the last of these splits."""
    order = rows["split"].map(SPLITS.index)
    return rows.loc[order < order.groupby(rows[same]).transform("max"), ["split", "dialogue_id"]]


def problems(
    outcomes: Sequence[ExpectationOutcome], rows: pd.DataFrame, cells: pd.DataFrame
) -> dict[tuple[str, int], str]:
    """What is wrong with single utterances, in words, by shard and row."""
    titles: dict[tuple[str, int], list[str]] = {}
    for outcome in outcomes:
        table = {"utterances": rows, "cells": cells}.get(outcome.rule.table)
        if outcome.status == "fail" and table is not None:
            for shard, row in table.loc[list(outcome.failing), ["shard", "row"]].itertuples(index=False):
                titles.setdefault((shard, int(row)), []).append(outcome.rule.title)
    return {row: "; ".join(f"not met: {title}" for title in unmet) for row, unmet in titles.items()}


def _optional_columns(files: Sequence[ShardFile]) -> set[str]:
    """The optional columns that one of the shards has."""
    present: set[str] = set()
    for file in files:
        try:
            with open_parquet(file.path) as opened:
                present.update(opened.schema_arrow.names)
        except (ParseError, OSError):
            continue
    return present & set(OPTIONAL_COLUMNS)


def write_quarantine(
    path: Path,
    files: Sequence[ShardFile],
    aside: Names,
    problem_of: Mapping[tuple[str, int], str],
    modalities: Mapping[str, str] | None = None,
) -> int:
    """Write the quarantined dialogues as a stream; return the number of utterances.

    Args:
        path: the file.
        files: the dataset's shards.
        aside: the dialogues.
        problem_of: what is wrong with single utterances, by shard and row.
        modalities: the modalities beside speech and text, and their kinds.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    form = schema(modalities, _optional_columns(files))
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
                problem = pa.array([problem_of.get((file.name, row)) for row in rows], pa.string())
                split = pa.array([file.split] * len(table), pa.string())
                writer.write_table(pa.Table.from_arrays([split, *values, problem], schema=columns))
                total += len(table)
    return total
