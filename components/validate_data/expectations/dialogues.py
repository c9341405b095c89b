"""Expectations of the dialogues: complete, in order, of bounded length."""

from __future__ import annotations

from pydantic import Field

from components.validate_data.expectation import Expectation, is_between, is_true
from mistere.config.validation import ValidationSettings


class Settings(ValidationSettings):
    """Bounds of the dialogues."""

    max_dialogue_turns: int = Field(default=512, gt=0, description="length of the longest dialogue, in turns.")


EXPECTATIONS = (
    Expectation(
        name="turns_unique",
        layer="Dialogues",
        severity="block",
        settings=Settings,
        title="No turn of a dialogue occurs twice",
        check=("ExpectCompoundColumnsToBeUnique", {"column_list": ["split", "dialogue_id", "turn"]}),
        happened="{n} {share} dialogue and turn with another ({examples})",
        fix="remove the copies, or give different dialogues different names",
        needs=("dialogue_id", "turn"),
    ),
    Expectation(
        name="turns_complete",
        layer="Dialogues",
        severity="block",
        settings=Settings,
        title="The turns of each dialogue are 0, 1, 2 … without a gap",
        table="dialogues",
        check=is_true("turns_complete"),
        happened="{n} {have} a gap in the turns or {do} not start at turn 0 ({examples})",
        fix="restore the missing utterances, or number the turns 0, 1, 2 … again",
        example="{split}/{dialogue_id}: turns {first:.0f} to {last:.0f}, {turns} in all",
        needs=("dialogue_id", "turn"),
    ),
    Expectation(
        name="rows_in_order",
        layer="Dialogues",
        severity="block",
        settings=Settings,
        title="The rows of a dialogue are adjacent, in the order of its turns",
        check=is_true("in_order"),
        happened="{n} {are} separated from the dialogue or {come} after a later turn ({examples})",
        fix="sort each split by dialogue_id and turn and export it again",
        needs=("dialogue_id", "turn"),
    ),
    Expectation(
        name="dialogue_length",
        layer="Dialogues",
        severity="block",
        settings=Settings,
        title="No dialogue is longer than {max_dialogue_turns} turns",
        table="dialogues",
        check=lambda _, settings: is_between("utterances", max_value=settings.max_dialogue_turns),
        happened="{n} {have} more than {max_dialogue_turns} turns ({examples})",
        fix="cut long conversations into several dialogues, or raise validation.max_dialogue_turns",
        example="{split}/{dialogue_id}: {utterances}",
        needs=("dialogue_id",),
    ),
    Expectation(
        name="dialogue_has_content",
        layer="Dialogues",
        severity="block",
        settings=Settings,
        title="Every dialogue has text or audio",
        table="dialogues",
        check=is_true("has_content"),
        happened="{n} {have} neither text nor audio in any utterance ({examples})",
        fix="add the transcript or the recording, or remove these dialogues",
        needs=("dialogue_id",),
    ),
)
