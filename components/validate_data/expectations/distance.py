"""Expectations of what datasets must not share (splits), and of how far they may be apart (drift)."""

from __future__ import annotations

from collections.abc import Sequence

from components.validate_data.expectations.rule import Rule, is_at_least, is_between
from components.validate_data.facts.drift import Drift
from components.validate_data.facts.tables import Facts
from mistere.config.validation import ValidationConfig


def split_rules(facts: Facts, speaker_disjoint: bool, config: ValidationConfig) -> list[Rule]:
    """Splits that are filled, and that have no dialogue, speaker, conversation or recording in common."""
    not_promised = "" if speaker_disjoint else "dataset.yaml says speaker_disjoint: false"
    overlap, few = f"{config.max_conversation_overlap:.0%}", f"{config.max_shared_conversations:.0%}"
    untold = "" if len(facts.sequences) else "no dialogue is long enough to be told by its words"
    return [
        Rule(
            name="splits_filled",
            layer="Splits",
            title="train, dev and test each hold utterances",
            table="splits",
            expectation=is_between("utterances", min_value=1),
            happened="{n} {have} no utterance ({examples})",
            mend="move whole dialogues there, or make the splits again",
        ),
        Rule(
            name="modalities_in_every_split",
            layer="Splits",
            title="What the dataset has of text and audio, it has in every split",
            table="modalities",
            expectation=is_between("utterances", min_value=1),
            happened="there is no {examples}, though the dataset has a column for it",
            mend="add it there, or leave the column out of all splits",
            needs=("audio", "text"),
        ),
        Rule(
            name="dialogue_in_one_split",
            layer="Splits",
            title="No dialogue is in two splits",
            table="dialogue_names",
            expectation=is_between("split_count", max_value=1),
            happened="{n} {are} in more than one split ({examples})",
            mend="keep each dialogue in one split; if they are different dialogues, give them different names",
            needs=("dialogue_id",),
        ),
        Rule(
            name="speaker_in_one_split",
            layer="Splits",
            title="No speaker is in two splits",
            table="speakers",
            expectation=is_between("split_count", max_value=1),
            happened="{n} {are} in more than one split, which dataset.yaml rules out ({examples})",
            mend="split by speaker again, or say speaker_disjoint: false in dataset.yaml",
            needs=("speaker",),
            not_checked=not_promised or ("the dataset names no speakers" if facts.speakers.empty else ""),
        ),
        Rule(
            name="conversation_in_one_split",
            layer="Splits",
            title=f"No dialogue shares over {overlap} of its five-word sequences with one of an earlier split",
            table="conversations",
            expectation=is_between("overlap", max_value=config.max_conversation_overlap),
            happened="{n} {are} also in another split under another name ({examples})",
            mend="keep one of them, best in train: a test on what was trained on says too much",
            needs=("dialogue_id", "text"),
            not_checked=untold,
        ),
        Rule(
            name="conversations_apart",
            layer="Splits",
            title=f"At most {few} of the dialogues of dev and test are such copies",
            table="conversations",
            expectation=is_between("overlap", max_value=config.max_conversation_overlap),
            happened=f"{{n}} {{are}} also in another split under another name, more than the {few} that one can live with "
            "({examples})",
            mend="make the splits again by conversation; test figures on conversations that were trained on mean nothing",
            needs=("dialogue_id", "text"),
            allowed_share=config.max_shared_conversations,
            not_checked=untold,
        ),
        Rule(
            name="audio_in_one_split",
            layer="Splits",
            title="No recording is in two splits",
            table="recordings",
            expectation=is_between("split_count", max_value=1),
            happened="{n} {are} in more than one split ({examples})",
            mend="keep one of them; whoever copied the files copied an answer into the exam",
            needs=("audio",),
            not_checked="" if facts.utterances["sound"].notna().any() else "the dataset has no audio",
        ),
    ]


_ADVICE = {
    "label_set": "a model with other labels is another model: check that this is meant",
    "labels": "check the labelling of the new data; the bound is validation.max_label_drift",
    "label_meaning": "compare the label maps with which the two were made; the bound is validation.max_label_exchange",
    "duration": "check how the new recordings were cut; the bound is validation.max_duration_drift",
    "text_length": "check how the new transcripts were made; the bound is validation.max_text_length_drift",
    "level": "check the microphones and the gain of the new recordings; the bound is validation.max_level_drift",
    "vocabulary": "check the source of the new transcripts; the bound is validation.max_vocabulary_drift",
}
_TITLES = {
    "label_set": "The labels are those that the champion knows",
    "labels": "The labels have the shares that the champion learned from",
    "label_meaning": "The labels go with the words that the champion learned them from",
    "duration": "The recordings are as long as those the champion learned from",
    "text_length": "The transcripts are as long as those the champion learned from",
    "level": "The recordings are as loud as those the champion learned from",
    "vocabulary": "The words are those that the champion learned from",
}


def drift_rules(drifts: Sequence[Drift]) -> list[Rule]:
    """Nearness to the data of the current champion."""
    known = {drift.measure: drift for drift in drifts}
    reason = "a part of this is missing on one side" if drifts else "there is no champion with a data profile"
    return [
        Rule(
            name=f"drift_{measure}",
            layer="Drift",
            title=title,
            table=f"drift_{measure}",
            expectation=is_at_least("bound", "distance"),
            happened=_happened(measure, known[measure]) if measure in known else "",
            mend=_ADVICE[measure],
            not_checked="" if measure in known else reason,
        )
        for measure, title in _TITLES.items()
    ]


def _happened(measure: str, drift: Drift) -> str:
    detail = f" ({drift.detail})" if drift.detail else ""
    if measure == "label_set":
        text = f"the labels are not those that the champion knows{detail}"
    elif measure == "label_meaning":
        text = f"labels were exchanged against those that the champion knows{detail}"
    else:
        text = (
            f"{drift.what} moved away from those that the champion learned from: distance {drift.distance:.2f}, "
            f"{drift.bound:.2f} allowed{detail}"
        )
    return text.replace("{", "{{").replace("}", "}}")
