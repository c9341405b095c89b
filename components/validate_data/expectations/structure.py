"""Expectations of form: files and columns, labels, dialogues."""

from __future__ import annotations

from collections.abc import Sequence

from components.validate_data.expectations.rule import Rule, is_at_least, is_between, is_not, is_true
from mistere.config.validation import ValidationConfig


def table_rules() -> list[Rule]:
    """Readable files with the columns of the dataset form."""
    return [
        Rule(
            name="shards_readable",
            layer="Table",
            title="Every file is readable parquet",
            table="shards",
            expectation=is_true("readable"),
            happened="{n} cannot be read as parquet ({examples})",
            mend="write the files again, or restore them from the version before",
        ),
        Rule(
            name="columns_present",
            layer="Table",
            title="Every file has the columns dialogue_id, turn and label",
            table="columns",
            expectation=is_not("status", "missing"),
            happened="{n} that every utterance needs {are} missing ({examples})",
            mend="add it to the table and export it again",
            example="'{column}' in {shard}",
        ),
        Rule(
            name="column_types",
            layer="Table",
            title="Every column has the type of the dataset form",
            table="columns",
            expectation=is_not("status", "wrong type"),
            happened="{n} {have} the wrong type ({examples})",
            mend="convert it and export the table again",
            example="'{column}' of {shard} holds {found}, expected {expected}",
        ),
        *(
            Rule(
                name=f"{column}_not_null",
                layer="Table",
                title=f"Every utterance has a {column}",
                expectation=("ExpectColumnValuesToNotBeNull", {"column": column}),
                happened=f"{{n}} {{have}} no {column} ({{examples}})",
                mend=f"fill in the {column}, or take the whole dialogue out",
                needs=(column,),
            )
            for column in ("dialogue_id", "turn", "label")
        ),
    ]


def label_rules(labels: Sequence[str], config: ValidationConfig) -> list[Rule]:
    """Declared labels, enough of each, in alike shares."""
    return [
        Rule(
            name="label_declared",
            layer="Labels",
            title=f"Every label is one of: {', '.join(labels)}",
            expectation=("ExpectColumnValuesToBeInSet", {"column": "label", "value_set": list(labels)}),
            happened="{n} {have} a label that dataset.yaml does not declare: {values} ({examples})",
            mend="correct the label, or add it to 'labels' in dataset.yaml",
            needs=("label",),
        ),
        Rule(
            name="labels_covered",
            layer="Labels",
            title="Every label occurs in train and in test",
            table="classes",
            expectation=is_at_least("utterances", "least"),
            happened="there are too few utterances of {examples}",
            mend="move whole dialogues so that train and test both have each label, or drop it from dataset.yaml",
            needs=("label",),
        ),
        Rule(
            name="labels_alike",
            layer="Labels",
            title="The labels have similar shares in all splits",
            table="label_shares",
            expectation=is_at_least("bound", "distance"),
            happened="the shares of the labels differ from those in train ({examples})",
            mend="look for labels that were mapped differently there, or make the splits again; the bound is "
            "validation.max_split_distance",
            example="{split}: distance {distance:.2f}, allowed {bound:.2f}; {detail}",
            needs=("label",),
        ),
        Rule(
            name="labels_mean_the_same",
            layer="Labels",
            title="The labels go with the same words in all splits",
            table="label_meanings",
            expectation=is_at_least("bound", "gain"),
            happened="labels were exchanged against those of train ({examples})",
            mend="compare the label maps with which the splits were made; the bound is validation.max_label_exchange",
            example="{split}: {detail}",
            needs=("label", "text"),
        ),
    ]


def dialogue_rules(config: ValidationConfig) -> list[Rule]:
    """Whole dialogues, turn by turn."""
    longest = config.max_dialogue_turns
    return [
        Rule(
            name="turns_unique",
            layer="Dialogues",
            title="No turn of a dialogue occurs twice",
            expectation=("ExpectCompoundColumnsToBeUnique", {"column_list": ["split", "dialogue_id", "turn"]}),
            happened="{n} {share} dialogue and turn with another ({examples})",
            mend="remove the copies, or give different dialogues different names",
            needs=("dialogue_id", "turn"),
        ),
        Rule(
            name="turns_complete",
            layer="Dialogues",
            title="The turns of each dialogue are 0, 1, 2 … without a gap",
            table="dialogues",
            expectation=is_true("turns_complete"),
            happened="{n} {have} a gap in the turns or {do} not start at turn 0 ({examples})",
            mend="restore the missing utterances, or number the turns 0, 1, 2 … again",
            example="{split}/{dialogue_id} has {turns} turns numbered {first:.0f} to {last:.0f}",
            needs=("dialogue_id", "turn"),
        ),
        Rule(
            name="rows_in_order",
            layer="Dialogues",
            title="The rows of a dialogue lie together, in the order of its turns",
            expectation=is_true("in_order"),
            happened="{n} {lie} apart from the dialogue or after a later turn ({examples})",
            mend="sort each split by dialogue_id and turn and export it again",
            needs=("dialogue_id", "turn"),
        ),
        Rule(
            name="dialogue_length",
            layer="Dialogues",
            title=f"No dialogue is longer than {longest} turns",
            table="dialogues",
            expectation=is_between("utterances", max_value=longest),
            happened=f"{{n}} {{have}} more than {longest} turns ({{examples}})",
            mend="cut long conversations into several dialogues, or raise validation.max_dialogue_turns",
            example="{split}/{dialogue_id}: {utterances}",
            needs=("dialogue_id",),
        ),
        Rule(
            name="dialogue_has_content",
            layer="Dialogues",
            title="Every dialogue has text or audio",
            table="dialogues",
            expectation=is_true("has_content"),
            happened="{n} {have} neither text nor audio in any utterance ({examples})",
            mend="add the transcript or the recording, or take these dialogues out",
            needs=("dialogue_id",),
        ),
    ]
