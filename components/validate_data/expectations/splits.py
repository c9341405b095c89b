"""Expectations of the splits: filled, without a common dialogue, speaker, conversation or recording."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_between
from mistere.config.validation import ValidationSettings


class Settings(ValidationSettings):
    """Bounds of the splits."""

    max_conversation_overlap: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of a dialogue's word sequences that one dialogue of another split may have too.",
    )
    max_shared_conversations: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of the dialogues of dev and test that may be above ``max_conversation_overlap``.",
    )


def _speakers_not_promised(dataset: Dataset) -> str:
    if not dataset.declared.speaker_disjoint:
        return "dataset.yaml has speaker_disjoint: false"
    return "the dataset names no speakers" if dataset.facts.speakers.empty else ""


def _dialogues_too_short(dataset: Dataset) -> str:
    return "" if len(dataset.facts.sequences) else "no dialogue is long enough to be recognized by its words"


def _no_audio(dataset: Dataset) -> str:
    return "" if dataset.facts.utterances["sound"].notna().any() else "the dataset has no audio"


_expectation = partial(Expectation[Settings], layer="Splits", settings=Settings)
EXPECTATIONS = (
    _expectation(
        name="splits_filled",
        severity="block",
        title="train, dev and test each have utterances",
        table="splits",
        check=is_between("utterances", min_value=1),
        happened="{n} {have} no utterance ({examples})",
        fix="move whole dialogues there, or make the splits again",
    ),
    _expectation(
        name="modalities_in_every_split",
        severity="block",
        title="Every split has the modalities (text, audio) that the dataset has, in turns with a label",
        table="modalities",
        check=is_between("utterances", min_value=1),
        happened="there is no {examples} among the turns with a label, though the dataset has a column for it",
        fix="add it there, make the splits again (with another --seed, if the importer made them), or leave the column out of all "
        "splits",
        needs=("audio", "text"),
    ),
    _expectation(
        name="dialogue_in_one_split",
        severity="block",
        title="No dialogue is in two splits",
        table="dialogue_names",
        check=is_between("split_count", max_value=1),
        happened="{n} {are} in more than one split ({examples})",
        fix="keep each dialogue in one split; if they are different dialogues, give them different names",
        needs=("dialogue_id",),
    ),
    _expectation(
        name="speaker_in_one_split",
        severity="block",
        title="No speaker is in two splits",
        table="speakers",
        check=is_between("split_count", max_value=1),
        happened="{n} {are} in more than one split, which dataset.yaml rules out ({examples})",
        fix="split by speaker again, or set speaker_disjoint: false in dataset.yaml",
        needs=("speaker",),
        not_checked=_speakers_not_promised,
    ),
    _expectation(
        name="conversation_in_one_split",
        severity="warn",
        title="No dialogue shares over {max_conversation_overlap:.0%} of its five-word sequences with one of an earlier split",
        table="conversations",
        check=lambda _, settings: is_between("overlap", max_value=settings.max_conversation_overlap),
        happened="{n} {are} also in another split under another name ({examples})",
        fix="keep one of them, preferably in train: test figures on training data are too high",
        needs=("dialogue_id", "text"),
        not_checked=_dialogues_too_short,
    ),
    _expectation(
        name="conversations_apart",
        severity="block",
        title="At most {max_shared_conversations:.0%} of the dialogues of dev and test are such copies",
        table="conversations",
        check=lambda _, settings: is_between("overlap", max_value=settings.max_conversation_overlap),
        happened="{n} {are} also in another split under another name, more than the {max_shared_conversations:.0%} "
        "allowed ({examples})",
        fix="make the splits again by conversation; test figures on conversations that were trained on mean nothing",
        needs=("dialogue_id", "text"),
        allowed_share=lambda settings: settings.max_shared_conversations,
        not_checked=_dialogues_too_short,
    ),
    _expectation(
        name="audio_in_one_split",
        severity="block",
        title="No recording is in two splits",
        table="recordings",
        check=is_between("split_count", max_value=1),
        happened="{n} {are} in more than one split ({examples})",
        fix="keep one of them: test figures on recordings that were trained on are too high",
        needs=("audio",),
        not_checked=_no_audio,
    ),
)
