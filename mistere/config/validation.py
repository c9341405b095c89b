"""The ``validation`` section, and the one place that says what each expectation's failure means."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from mistere.common.suggestions import did_you_mean
from mistere.config.base import Section

Severity = Literal["block", "warn", "off"]
"""``block`` rejects the dataset, ``warn`` is said and goes on, ``off`` is not looked at."""

SEVERITIES: dict[str, Severity] = {
    "shards_readable": "block",
    "columns_present": "block",
    "column_types": "block",
    "dialogue_id_not_null": "block",
    "turn_not_null": "block",
    "label_not_null": "block",
    "label_declared": "block",
    "labels_covered": "block",
    "labels_alike": "warn",
    "labels_mean_the_same": "block",
    "turns_unique": "block",
    "turns_complete": "block",
    "rows_in_order": "block",
    "dialogue_length": "block",
    "dialogue_has_content": "block",
    "text_present": "warn",
    "text_encoding": "block",
    "text_script": "block",
    "text_repeated": "warn",
    "text_length": "warn",
    "audio_present": "warn",
    "audio_embedded": "block",
    "audio_not_empty": "block",
    "audio_decodes": "block",
    "audio_rate": "block",
    "audio_channels": "warn",
    "audio_duration": "block",
    "audio_silent": "block",
    "audio_clipped": "block",
    "audio_dc_offset": "warn",
    "audio_repeated": "warn",
    "text_fits_duration": "block",
    "text_follows_duration": "block",
    "splits_filled": "block",
    "modalities_in_every_split": "block",
    "dialogue_in_one_split": "block",
    "speaker_in_one_split": "block",
    "conversation_in_one_split": "warn",
    "conversations_apart": "block",
    "audio_in_one_split": "block",
    "drift_label_set": "warn",
    "drift_labels": "warn",
    "drift_label_meaning": "block",
    "drift_duration": "warn",
    "drift_text_length": "warn",
    "drift_level": "warn",
    "drift_vocabulary": "warn",
}
"""Every expectation by name; a profile changes single ones with ``validation.severity``."""


class ValidationConfig(Section):
    """Bounds of ``validate_data``. Shares are fractions of the utterances that an expectation applies to.

    Attributes:
        severity: what differs from :data:`SEVERITIES`, by expectation.
        quarantine: set dialogues with blocking findings aside instead of rejecting the whole dataset.
        max_quarantined_share: share of the utterances that may be set aside; beyond it the dataset is rejected.
        min_seconds: shortest recording.
        max_seconds: longest recording.
        min_sample_rate: in Hz.
        max_channels: of a recording.
        silence_dbfs: a recording quieter than this RMS level is silent.
        max_quiet: a recording is silent, too, where more than this share of its 20 ms frames is quieter than that.
        max_silent_share: share of recordings that may be silent.
        max_clipped_samples: above it a recording counts as clipped.
        max_clipped_share: share of recordings that may be clipped.
        max_dc_offset: mean of the samples (full scale is 1) above which a recording has an offset.
        max_dc_share: share of recordings that may have one.
        max_repeated_share: share of recordings, or of utterances with one sentence, that may be repetitions.
        max_dialogue_turns: longest dialogue.
        max_text_length: longest transcript, in characters.
        max_missing_share: share of utterances that may lack text, or audio, where the dataset has it.
        max_damaged_share: share of transcripts that may show encoding damage.
        max_foreign_letters: share of a transcript's letters that may be of another script than the language's.
        max_foreign_share: share of transcripts beyond that.
        min_letters_per_second: fewer, and a recording is too long for its transcript.
        max_letters_per_second: more, and it is too short.
        max_misfit_share: share of utterances that may be either.
        min_length_correlation: rank correlation between the lengths of transcripts and recordings in a split.
        max_conversation_overlap: share of a dialogue's word sequences that another split may have in one dialogue.
        max_shared_conversations: share of the dialogues of dev and test that may be beyond that.
        min_train_per_class: utterances of each label in train.
        min_test_per_class: utterances of each label in test.
        max_split_distance: Jensen-Shannon distance (0..1) between the label shares of train and another split.
        max_label_exchange: how much better (nats a word) an exchange of label names may explain the words that go with them.
        max_label_drift: Jensen-Shannon distance of the label shares from those that the champion learned from.
        max_vocabulary_drift: the same distance of the word shares.
        max_duration_drift: largest difference (0..1) of the two cumulative distributions of durations.
        max_text_length_drift: the same of transcript lengths.
        max_level_drift: the same of levels.
    """

    severity: dict[str, Severity] = Field(default_factory=dict)
    quarantine: bool = False
    max_quarantined_share: float = Field(default=0.05, ge=0, lt=1)
    min_seconds: float = Field(default=0.05, gt=0)
    max_seconds: float = Field(default=60.0, gt=0)
    min_sample_rate: int = Field(default=8000, gt=0)
    max_channels: int = Field(default=2, gt=0)
    silence_dbfs: float = Field(default=-60.0, lt=0)
    max_quiet: float = Field(default=0.9, gt=0, le=1)
    max_silent_share: float = Field(default=0.05, ge=0, le=1)
    max_clipped_samples: float = Field(default=0.01, ge=0, le=1)
    max_clipped_share: float = Field(default=0.10, ge=0, le=1)
    max_dc_offset: float = Field(default=0.02, gt=0, le=1)
    max_dc_share: float = Field(default=0.05, ge=0, le=1)
    max_repeated_share: float = Field(default=0.02, ge=0, le=1)
    max_dialogue_turns: int = Field(default=512, gt=0)
    max_text_length: int = Field(default=2000, gt=0)
    max_missing_share: float = Field(default=0.20, ge=0, le=1)
    max_damaged_share: float = Field(default=0.005, ge=0, le=1)
    max_foreign_letters: float = Field(default=0.5, ge=0, le=1)
    max_foreign_share: float = Field(default=0.02, ge=0, le=1)
    min_letters_per_second: float = Field(default=0.3, ge=0)
    max_letters_per_second: float = Field(default=45.0, gt=0)
    max_misfit_share: float = Field(default=0.05, ge=0, le=1)
    min_length_correlation: float = Field(default=0.2, ge=-1, le=1)
    max_conversation_overlap: float = Field(default=0.5, gt=0, le=1)
    max_shared_conversations: float = Field(default=0.01, ge=0, le=1)
    min_train_per_class: int = Field(default=1, ge=0)
    min_test_per_class: int = Field(default=1, ge=0)
    max_split_distance: float = Field(default=0.35, gt=0, le=1)
    max_label_exchange: float = Field(default=0.1, gt=0)
    max_label_drift: float = Field(default=0.10, gt=0, le=1)
    max_vocabulary_drift: float = Field(default=0.30, gt=0, le=1)
    max_duration_drift: float = Field(default=0.15, gt=0, le=1)
    max_text_length_drift: float = Field(default=0.15, gt=0, le=1)
    max_level_drift: float = Field(default=0.25, gt=0, le=1)

    @field_validator("severity", mode="after")
    @classmethod
    def _known(cls, severity: dict[str, Any]) -> dict[str, Any]:
        for name in severity:
            if name not in SEVERITIES:
                raise ValueError(f"no expectation is named {name!r}{did_you_mean(name, SEVERITIES)}")
        return severity

    def severity_of(self, name: str) -> Severity:
        """What a failure of an expectation means here."""
        return self.severity.get(name, SEVERITIES[name])
