"""Failed rows in words: how many, which, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any

from mistere.common.counting import counted, plural

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 3
"""Rows named in a sentence; the verdict names ten."""
_LONGEST = 80
NOUNS = {
    "shards": "file",
    "columns": "column",
    "utterances": "utterance",
    "cells": "value",
    "dialogues": "dialogue",
    "dialogue_names": "dialogue",
    "speakers": "speaker",
    "splits": "split",
    "classes": "label",
    "modalities": "modality",
    "conversations": "dialogue",
    "recordings": "recording",
    "phrases": "sentence",
    "label_shares": "split",
    "label_meanings": "split",
    "lengths": "split",
}
ROW_EXAMPLES = {
    "shards": "{shard}: {reason}",
    "columns": "{shard}",
    "utterances": "{location}",
    "cells": "{modality} of {location}",
    "dialogues": "{split}/{dialogue_id}",
    "dialogue_names": "{name} in {splits}",
    "speakers": "{name} in {splits}",
    "splits": "{split}",
    "classes": "'{label}' in {split} ({utterances}, at least {least} needed)",
    "modalities": "{modality} in {split}",
    "conversations": "{overlap:.0%} of {split}/{dialogue_id} in {twin_split}/{twin}",
    "recordings": "{location} and {other_location}",
    "phrases": "{location}",
    "label_shares": "{split}",
    "label_meanings": "{split}",
    "lengths": "{split}",
}
_VERBS = {"have": "has", "are": "is", "come": "comes", "do": "does", "name": "names", "share": "shares"}


class _Sentences(Formatter):
    """``str.format`` that writes shares as all other sentences do: ``5 %`` for ``{share:.0%}``."""

    def format_field(self, value: Any, format_spec: str) -> str:
        text = str(super().format_field(value, format_spec))
        return f"{text[:-1]} %" if format_spec.endswith("%") else text


def fill(template: str, values: Mapping[str, Any]) -> str:
    """A template with its placeholders filled in."""
    return _Sentences().vformat(template, (), values)


def describe(template: str, rows: pd.DataFrame, table: str, column: str = "", example: str = "", noun: str = "") -> str:
    """Describe failing rows in words.

    Args:
        template: a sentence's beginning with any of ``{n}`` (for example ``3 utterances``), ``{examples}``,
            ``{values}`` (the distinct values of ``column``) and the verbs ``{have} {are} {come} {do} {name} {share}``.
        rows: the rows that failed.
        table: the table they are from.
        column: the column that was checked.
        example: how one row is shown; the table's default if empty.
        noun: what a row is, in the singular; the table's default if empty.
    """
    verbs = {many: plural(len(rows), one, many) for many, one in _VERBS.items()}
    values = dict(
        n=counted(len(rows), noun or NOUNS.get(table, "row")),
        examples=", ".join(shown(rows, table, example, EXAMPLES)) + (", …" if len(rows) > EXAMPLES else ""),
        values=_values(rows[column]) if column else "",
        **verbs,
    )
    return fill(template, values)


def brief(value: Any) -> Any:
    """A text on one line and of limited length; anything else unchanged."""
    if not isinstance(value, str):
        return value
    line = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(value.split())
    )
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def shown(rows: pd.DataFrame, table: str, example: str, most: int) -> list[str]:
    """The first failing rows, each in words.

    Args:
        rows: the rows that failed.
        table: the table they are from.
        example: how one row is shown; the table's default if empty.
        most: how many at most.
    """
    template = example or ROW_EXAMPLES.get(table, "")
    described = []
    for row in rows.head(most).itertuples(index=False):
        record = {name: brief(value) for name, value in zip(rows.columns, row, strict=True)}
        described.append(fill(template, {"location": _location(record), **record}))
    return described


def _values(values: pd.Series[Any]) -> str:
    """The values that occur, most frequent first, quoted."""
    counts = values.value_counts().to_dict()
    ordered = sorted(counts, key=lambda value: (-counts[value], str(value)))
    shown = ", ".join(f"'{brief(value)}'" for value in ordered[:EXAMPLES])
    return shown + (f" and {len(ordered) - EXAMPLES} more" if len(ordered) > EXAMPLES else "")


def _location(row: dict[str, Any]) -> str:
    """Where an utterance is: ``train/dia7/turn 3``, or its row in the file if it has no name."""
    turn = row.get("turn")
    if turn is None or turn != turn or not isinstance(row.get("dialogue_id"), str):
        return f"{row.get('shard')} row {row.get('row', 0) + 1}"
    return f"{row['split']}/{row['dialogue_id']}/turn {int(turn)}"
