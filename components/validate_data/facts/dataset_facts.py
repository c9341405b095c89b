"""The facts of a dataset: tables of numbers and names, combined from the facts of its shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate_data.facts.cell_facts import cells_schema, described
from components.validate_data.facts.shard_facts import (
    FactsCache,
    ShardFacts,
    expected_types,
    facts_of_shard,
    rows_schema,
)
from mistere.common.counting import counted
from mistere.common.errors import DataError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet
from mistere.common.splits import SPLITS, Split
from mistere.data.roles import labels_of_roles

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from components.validate_data.dataset import Declared


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A parquet file of the dataset.

    Attributes:
        split: which one it belongs to.
        path: its path.
        name: its name in reports.
        md5: its digest; empty if its facts are not cached.
    """

    split: Split
    path: Path
    name: str
    md5: str = ""


@dataclass(frozen=True)
class Facts:
    """The facts of a dataset.

    Attributes:
        shards: one row per file: split, shard, readable, reason.
        columns: one row per file and column: split, shard, column, expected, found, status (``ok``, ``missing`` or
            ``wrong type``).
        utterances: one row per utterance, in file order: split, shard, the rows of
            :class:`~components.validate_data.facts.shard_facts.ShardFacts`, letters_per_second, audible, copies (utterances with this
            recording), in_order. Missing where a fact does not apply.
        dialogues: one row per split and dialogue: utterances, turns, first, last, turns_complete, has_content.
        dialogue_names: one row per dialogue name: splits, split_count.
        speakers: one row per speaker: splits, split_count.
        sequences: split, dialogue_id, sequence: five consecutive words.
        label_words: how often each word occurs, by split and label; the words of turns without a label are under "".
        cells: one row per utterance and modality beside speech and text: split, shard, the rows of
            :class:`~components.validate_data.facts.shard_facts.ShardFacts`, and :func:`~components.validate_data.facts.cell_facts.described`.
    """

    shards: pd.DataFrame
    columns: pd.DataFrame
    utterances: pd.DataFrame
    dialogues: pd.DataFrame
    dialogue_names: pd.DataFrame
    speakers: pd.DataFrame
    sequences: pd.DataFrame
    label_words: dict[str, dict[str, dict[str, int]]]
    cells: pd.DataFrame

    def without(self, dialogues: Mapping[str, frozenset[str]]) -> Facts:
        """The facts of the dataset without some dialogues of each split; word counts still include them."""

        def kept(table: pd.DataFrame) -> pd.DataFrame:
            gone = table["dialogue_id"].isin(())
            for split, names in dialogues.items():
                gone |= (table["split"] == split) & table["dialogue_id"].isin(names)
            return table[~gone].reset_index(drop=True)

        rows = kept(self.utterances)
        return replace(
            self,
            utterances=rows,
            dialogues=_dialogues(rows),
            dialogue_names=_splits_of(rows, "dialogue_id"),
            speakers=_splits_of(rows, "speaker"),
            sequences=kept(self.sequences),
            cells=kept(self.cells),
        )


def gather(
    files: Sequence[ShardFile],
    declared: Declared,
    silence_dbfs: float,
    max_quiet: float,
    *,
    dialogues: Mapping[Split, frozenset[str] | None] | None = None,
    cache: FactsCache | None = None,
    on_progress: Callable[[str, float, float], None] | None = None,
) -> Facts:
    """Measure the shards that are not cached; memory grows by a few hundred bytes an utterance.

    Args:
        files: the parquet files, in row order within each split.
        declared: the language of the transcripts, the modalities beside speech and text, and the roles whose turns are predicted:
            turns of others get no label.
        silence_dbfs: below this RMS level, in dBFS, a recording is silent.
        max_quiet: a recording with more than this share of quiet frames is silent too.
        dialogues: the dialogues in use, per split; None for all of them.
        cache: facts of shards that were measured before.
        on_progress: called with ``(message, done, total)``, in utterances.
    """
    import pandas as pd

    modalities = declared.modalities
    types = expected_types(modalities)
    total, done = sum(_row_count(file.path) for file in files), 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress is not None:
            on_progress(f"{done} of {counted(total, 'utterance')} read", done, total)

    shard_rows: list[dict[str, Any]] = []
    column_rows: list[dict[str, Any]] = []
    rows: list[pa.Table] = []
    sequences: list[pa.Table] = []
    cells: list[pa.Table] = []
    label_words: dict[str, dict[str, dict[str, int]]] = {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for file in files:
            reason, found = "", None
            wanted = (dialogues or {}).get(file.split)
            try:
                found = _cached_or_measured(
                    file, declared.language, silence_dbfs, pool, wanted, cache, advance, modalities
                )
            except _unreadable() as error:
                reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            shard_rows.append({"split": file.split, "shard": file.name, "readable": not reason, "reason": reason})
            if found is None:
                continue
            named = {"split": file.split, "shard": file.name}
            column_rows += [{**named, "expected": types[row["column"]], **row} for row in found.columns]
            rows.append(_named(found.rows, **named))
            sequences.append(_named(found.sequences, split=file.split))
            cells.append(_named(found.cells, **named))
            of_split = label_words.setdefault(file.split, {})
            words = labels_of_roles(found.words, declared.predict_roles).select(["label", "word", "count"])
            for label, word, count in zip(*(column.to_pylist() for column in words.columns), strict=True):
                of_label = of_split.setdefault(label or "", {})
                of_label[word] = of_label.get(word, 0) + count
    table = _utterances(rows, declared.predict_roles, silence_dbfs, max_quiet)
    return Facts(
        shards=pd.DataFrame(shard_rows, columns=["split", "shard", "readable", "reason"]),
        columns=pd.DataFrame(column_rows, columns=["split", "shard", "column", "expected", "found", "status"]),
        utterances=table,
        dialogues=_dialogues(table),
        dialogue_names=_splits_of(table, "dialogue_id"),
        speakers=_splits_of(table, "speaker"),
        sequences=_joined(sequences, ("split", "dialogue_id", "sequence")),
        label_words=label_words,
        cells=described(_joined(cells or [_named(cells_schema().empty_table(), split="train", shard="")], ())),
    )


def _cached_or_measured(
    file: ShardFile,
    language: str,
    silence_dbfs: float,
    pool: ThreadPoolExecutor,
    dialogues: frozenset[str] | None,
    cache: FactsCache | None,
    advance: Callable[[int], None],
    modalities: Mapping[str, str],
) -> ShardFacts:
    usable_cache = cache if file.md5 and dialogues is None else None
    facts = usable_cache.find(file.md5) if usable_cache else None
    if facts is not None:
        advance(facts.rows.num_rows)
        return facts
    facts = facts_of_shard(file.path, language, silence_dbfs, pool, dialogues, advance, modalities)
    if usable_cache:
        usable_cache.add(file.md5, facts)
    return facts


def _unreadable() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (DataError, ParseError, pa.ArrowException, OSError, UnicodeDecodeError)


def _row_count(path: Path) -> int:
    try:
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    except _unreadable():
        return 0


def _named(table: pa.Table, **names: str) -> pa.Table:
    """The table with constant columns added."""
    import pyarrow as pa

    for position, (name, value) in enumerate(names.items()):
        indices = pa.array([0] * table.num_rows, pa.int32())
        table = table.add_column(position, name, pa.DictionaryArray.from_arrays(indices, pa.array([value])))
    return table


def _joined(tables: Sequence[pa.Table], columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    if not tables:
        return pd.DataFrame(columns=list(columns))
    return pa.concat_tables(tables).unify_dictionaries().to_pandas()


def _utterances(
    tables: Sequence[pa.Table], predict_roles: Sequence[str], silence_dbfs: float, max_quiet: float
) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    if not tables:
        tables = [_named(rows_schema().empty_table(), split="train", shard="")]
    joined = labels_of_roles(pa.concat_tables(tables), predict_roles)
    table = joined.unify_dictionaries().to_pandas(types_mapper=_nullable)
    for column in ("split", "shard"):
        table[column] = table[column].astype(object)
    table["letters_per_second"] = (table["text_length"] / table["seconds"]).where(
        (table["text_length"] > 0) & (table["seconds"] > 0)
    )
    silent = (table["rms_dbfs"] < silence_dbfs) | (table["quiet"] > max_quiet)
    table["audible"] = (~silent).where(table["rms_dbfs"].notna()).astype(object)
    table["copies"] = table.groupby("sound")["sound"].transform("size").astype(float)
    table["in_order"] = _in_order(table)
    assert isinstance(table, pd.DataFrame)
    return table


def _nullable(kind: pa.DataType) -> Any:
    """Keep digests as integers where some are missing: a float has only 53 bits."""
    import pandas as pd
    import pyarrow as pa

    return pd.Int64Dtype() if kind == pa.int64() else None


def _in_order(table: pd.DataFrame) -> pd.Series[bool]:
    """For each row: its dialogue's rows are adjacent and their turns do not decrease; rows without a dialogue are skipped."""
    named = table.loc[table["dialogue_id"].notna(), ["split", "dialogue_id", "turn"]]
    groups = [named["split"], named["dialogue_id"]]
    block = (
        (named["dialogue_id"] != named["dialogue_id"].shift()) | (named["split"] != named["split"].shift())
    ).cumsum()
    together = block == block.groupby(groups).transform("first")
    back = named["turn"] < named.groupby(groups)["turn"].shift()
    return (together & ~back).reindex(table.index, fill_value=True)


def _dialogues(table: pd.DataFrame) -> pd.DataFrame:
    named = table[table["dialogue_id"].notna()]
    named = named.assign(content=(named["text_length"] > 0) | named["has_audio"].astype(bool) | (named["others"] > 0))
    dialogues = named.groupby(["split", "dialogue_id"], sort=True).agg(
        utterances=("turn", "size"),
        first=("turn", "min"),
        last=("turn", "max"),
        turns=("turn", "nunique"),
        has_content=("content", "any"),
    )
    numbered = (dialogues["first"] == 0) & (dialogues["last"] == dialogues["turns"] - 1)
    dialogues["turns_complete"] = numbered | (dialogues["turns"] == 0)
    return dialogues.reset_index()


def _splits_of(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per name: the splits in which it occurs, in the order train, dev, test."""
    import pandas as pd

    splits_by_name: dict[str, set[str]] = {}
    pairs = table.loc[table[column].notna(), [column, "split"]].drop_duplicates()
    for name, split in pairs.itertuples(index=False):
        splits_by_name.setdefault(name, set()).add(split)
    rows = [
        {"name": name, "splits": " and ".join(split for split in SPLITS if split in splits), "split_count": len(splits)}
        for name, splits in sorted(splits_by_name.items())
    ]
    return pd.DataFrame(rows, columns=["name", "splits", "split_count"])
