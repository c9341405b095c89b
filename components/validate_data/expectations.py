"""What is expected of a dataset, as data: each rule names its Great Expectations class and words its failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.core.config.validation import ValidationConfig
from components.validate_data.facts import Facts

Arguments = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One expectation.

    Attributes:
        name: identifies it in ``expectations.json``.
        layer: the heading it stands under in the report.
        title: what is expected, in plain words.
        table: the table of facts it looks at, and so what is counted.
        expectation: the class in ``great_expectations.expectations``, and its arguments.
        happened: what is wrong, as a template of :func:`components.validate_data.wording.describe`.
        mend: how to put it right.
        example: how one failing row is shown; the table's own way where empty.
        needs: columns of the dataset without which it can't be judged.
        allowed_share: 0..1 of the rows may fail.
        not_checked: why it does not apply to this dataset; empty where it does.
    """

    name: str
    layer: str
    title: str
    table: str = "utterances"
    expectation: tuple[str, Arguments]
    happened: str
    mend: str
    example: str = ""
    needs: Sequence[str] = field(default=())
    allowed_share: float = 0.0
    not_checked: str = ""


def rules(facts: Facts, labels: Sequence[str], speaker_disjoint: bool, config: ValidationConfig) -> list[Rule]:
    """Every expectation, in the order in which the report shows them."""
    return [
        *_table_rules(),
        *_label_rules(labels),
        *_dialogue_rules(config),
        *_split_rules(facts, speaker_disjoint),
        *_audio_rules(facts, config),
    ]


def _true(column: str) -> tuple[str, Arguments]:
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [True]}


def _is_not(column: str, value: str) -> tuple[str, Arguments]:
    return "ExpectColumnValuesToNotBeInSet", {"column": column, "value_set": [value]}


def _between(column: str, **bounds: float) -> tuple[str, Arguments]:
    return "ExpectColumnValuesToBeBetween", {"column": column, **bounds}


def _table_rules() -> list[Rule]:
    return [
        Rule(
            name="shards_readable",
            layer="Table",
            title="Every file is readable parquet",
            table="shards",
            expectation=_true("readable"),
            happened="{n} cannot be read as parquet ({examples})",
            mend="write the files again, or restore them from the version before",
        ),
        Rule(
            name="columns_present",
            layer="Table",
            title="Every file has the columns dialogue_id, turn and label",
            table="columns",
            expectation=_is_not("status", "missing"),
            happened="{n} that every utterance needs {are} missing ({examples})",
            mend="add it to the table and export it again",
            example="'{column}' in {shard}",
        ),
        Rule(
            name="column_types",
            layer="Table",
            title="Every column has the type of the dataset form",
            table="columns",
            expectation=_is_not("status", "wrong type"),
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


def _label_rules(labels: Sequence[str]) -> list[Rule]:
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
            expectation=(
                "ExpectColumnPairValuesAToBeGreaterThanB",
                {"column_A": "utterances", "column_B": "least", "or_equal": True},
            ),
            happened="there are too few utterances of {examples}",
            mend="move whole dialogues so that train and test both have each label, or drop it from dataset.yaml",
            needs=("label",),
        ),
    ]


def _dialogue_rules(config: ValidationConfig) -> list[Rule]:
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
            expectation=_true("turns_complete"),
            happened="{n} {have} a gap in the turns or {do} not start at turn 0 ({examples})",
            mend="restore the missing utterances, or number the turns 0, 1, 2 … again",
            example="{split}/{dialogue_id} has {turns} turns numbered {first:.0f} to {last:.0f}",
            needs=("dialogue_id", "turn"),
        ),
        Rule(
            name="rows_in_order",
            layer="Dialogues",
            title="The rows of a dialogue lie together, in the order of its turns",
            expectation=_true("in_order"),
            happened="{n} {lie} apart from the dialogue or after a later turn ({examples})",
            mend="sort each split by dialogue_id and turn and export it again",
            needs=("dialogue_id", "turn"),
        ),
        Rule(
            name="dialogue_length",
            layer="Dialogues",
            title=f"No dialogue is longer than {longest} turns",
            table="dialogues",
            expectation=_between("utterances", max_value=longest),
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
            expectation=_true("has_content"),
            happened="{n} {have} neither text nor audio in any utterance ({examples})",
            mend="add the transcript or the recording, or take these dialogues out",
            needs=("dialogue_id",),
        ),
    ]


def _split_rules(facts: Facts, speaker_disjoint: bool) -> list[Rule]:
    not_promised = "" if speaker_disjoint else "dataset.yaml says speaker_disjoint: false"
    return [
        Rule(
            name="splits_filled",
            layer="Splits",
            title="train, dev and test each hold utterances",
            table="splits",
            expectation=_between("utterances", min_value=1),
            happened="{n} {have} no utterance ({examples})",
            mend="move whole dialogues there, or make the splits again",
        ),
        Rule(
            name="modalities_in_every_split",
            layer="Splits",
            title="What the dataset has of text and audio, it has in every split",
            table="modalities",
            expectation=_between("utterances", min_value=1),
            happened="there is no {examples}, though the dataset has a column for it",
            mend="add it there, or leave the column out of all splits",
            needs=("audio", "text"),
        ),
        Rule(
            name="dialogue_in_one_split",
            layer="Splits",
            title="No dialogue is in two splits",
            table="dialogue_names",
            expectation=_between("split_count", max_value=1),
            happened="{n} {are} in more than one split ({examples})",
            mend="keep each dialogue in one split; if they are different dialogues, give them different names",
            needs=("dialogue_id",),
        ),
        Rule(
            name="speaker_in_one_split",
            layer="Splits",
            title="No speaker is in two splits",
            table="speakers",
            expectation=_between("split_count", max_value=1),
            happened="{n} {are} in more than one split, which dataset.yaml rules out ({examples})",
            mend="split by speaker again, or say speaker_disjoint: false in dataset.yaml",
            needs=("speaker",),
            not_checked=not_promised or ("the dataset names no speakers" if facts.speakers.empty else ""),
        ),
    ]


def _audio_rules(facts: Facts, config: ValidationConfig) -> list[Rule]:
    applies: dict[str, Any] = {
        "layer": "Audio",
        "needs": ("audio",),
        "not_checked": "" if facts.utterances["has_audio"].any() else "the dataset has no audio",
    }
    low, high, rate = f"{config.min_seconds:g}", f"{config.max_seconds:g}", config.min_sample_rate
    silent, clipped = f"{config.max_silent_share:.0%}", f"{config.max_clipped_share:.0%}"
    return [
        Rule(
            name="audio_embedded",
            title="Audio is stored in the table itself, not as a path",
            expectation=_true("embedded"),
            happened="{n} {name} an audio file but {do} not hold it ({examples})",
            mend="import the dataset again with its audio folder at hand",
            **applies,
        ),
        Rule(
            name="audio_not_empty",
            title="No recording is empty",
            expectation=_true("non_empty"),
            happened="the audio of {n} has zero length ({examples})",
            mend="export these recordings again, or leave their audio out",
            **applies,
        ),
        Rule(
            name="audio_decodes",
            title="Every recording decodes",
            expectation=_true("decodes"),
            happened="the audio of {n} does not decode ({examples})",
            mend="export these recordings again as WAV, FLAC, OGG or MP3, or leave their audio out",
            **applies,
        ),
        Rule(
            name="audio_rate",
            title=f"The sample rate is at least {rate} Hz",
            expectation=_between("rate", min_value=rate),
            happened=f"the audio of {{n}} has a sample rate under {rate} Hz ({{examples}})",
            mend="export the original recordings at 16000 Hz, or lower validation.min_sample_rate",
            example="{place}: {rate:.0f} Hz",
            **applies,
        ),
        Rule(
            name="audio_duration",
            title=f"A recording lasts {low} to {high} seconds",
            expectation=_between("seconds", min_value=config.min_seconds, max_value=config.max_seconds),
            happened=f"the audio of {{n}} is shorter than {low} s or longer than {high} s ({{examples}})",
            mend="cut the recordings at the utterances' bounds, or change validation.min_seconds or max_seconds",
            example="{place}: {seconds:.3g} s",
            **applies,
        ),
        Rule(
            name="audio_silent",
            title=f"At most {silent} of the recordings are silent (under {config.silence_dbfs:g} dBFS)",
            expectation=_between("rms_dbfs", min_value=config.silence_dbfs),
            happened=f"{{n}} {{are}} silent, more than the {silent} allowed ({{examples}})",
            mend="look for a muted channel or wrong cutting times, or raise validation.max_silent_share",
            allowed_share=config.max_silent_share,
            **applies,
        ),
        Rule(
            name="audio_clipped",
            title=f"At most {clipped} of the recordings have over {config.max_clipped_samples:.1%} of samples clipped",
            expectation=_between("clipped", max_value=config.max_clipped_samples),
            happened=f"{{n}} {{are}} clipped, more than the {clipped} allowed ({{examples}})",
            mend="record or export them at a lower level, or raise validation.max_clipped_share",
            allowed_share=config.max_clipped_share,
            **applies,
        ),
    ]
