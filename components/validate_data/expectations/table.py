"""Expectations of the files: readable, with the columns of the dataset form."""

from __future__ import annotations

from components.validate_data.expectation import Expectation, is_not, is_true
from mistere.config.validation import ValidationSettings

EXPECTATIONS = (
    Expectation(
        name="shards_readable",
        layer="Table",
        severity="block",
        settings=ValidationSettings,
        title="Every file is readable parquet",
        table="shards",
        check=is_true("readable"),
        happened="{n} cannot be read as parquet ({examples})",
        fix="write the files again, or restore them from the previous version",
    ),
    Expectation(
        name="columns_present",
        layer="Table",
        severity="block",
        settings=ValidationSettings,
        title="Every file has the columns dialogue_id, turn and label",
        table="columns",
        check=is_not("status", "missing"),
        happened="{n} that every utterance needs {are} missing ({examples})",
        fix="add it to the table and export it again",
        example="'{column}' in {shard}",
    ),
    Expectation(
        name="column_types",
        layer="Table",
        severity="block",
        settings=ValidationSettings,
        title="Every column has the type of the dataset form",
        table="columns",
        check=is_not("status", "wrong type"),
        happened="{n} {have} the wrong type ({examples})",
        fix="convert it and export the table again",
        example="'{column}' of {shard} is {found}, expected {expected}",
    ),
    *(
        Expectation(
            name=f"{column}_not_null",
            layer="Table",
            severity="block",
            settings=ValidationSettings,
            title=f"Every utterance has a {column}",
            check=("ExpectColumnValuesToNotBeNull", {"column": column}),
            happened=f"{{n}} {{have}} no {column} ({{examples}})",
            fix=f"fill in the {column}, or remove the whole dialogue",
            needs=(column,),
        )
        for column in ("dialogue_id", "turn")
    ),
)
