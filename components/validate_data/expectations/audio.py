"""Expectations of the recordings: present, decodable, with speech at a usable level."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_between, is_true
from components.validate_data.facts.repetition import most_frequent
from mistere.config.validation import ValidationSettings


class Settings(ValidationSettings):
    """Bounds of the recordings."""

    min_seconds: float = Field(default=0.05, gt=0, description="duration of the shortest recording, in s.")
    max_seconds: float = Field(default=60.0, gt=0, description="duration of the longest recording, in s.")
    min_sample_rate: int = Field(default=8000, gt=0, description="lowest sample rate of a recording, in Hz.")
    max_channels: int = Field(default=2, gt=0, description="most channels of a recording.")
    max_silent_share: float = Field(default=0.05, ge=0, le=1, description="share of recordings that may be silent.")
    max_clipped_samples: float = Field(
        default=0.01, ge=0, le=1, description="share of its samples at full scale above which a recording is clipped."
    )
    max_clipped_share: float = Field(default=0.10, ge=0, le=1, description="share of recordings that may be clipped.")
    max_dc_offset: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="mean of the samples (full scale is 1) above which a recording has a DC offset.",
    )
    max_dc_share: float = Field(default=0.05, ge=0, le=1, description="share of recordings that may have a DC offset.")
    max_same_audio: float = Field(
        default=0.5, gt=0, le=1, description="share of a split's recordings that may be one and the same recording."
    )


def _no_audio(dataset: Dataset) -> str:
    return "" if dataset.facts.utterances["has_audio"].any() else "the dataset has no audio"


_expectation = partial(Expectation[Settings], layer="Audio", settings=Settings, needs=("audio",), not_checked=_no_audio)
EXPECTATIONS = (
    _expectation(
        name="audio_present",
        severity="warn",
        title="At most {max_missing_share:.0%} of the utterances lack a recording",
        check=is_true("has_audio"),
        happened="{n} {have} no recording, more than the {max_missing_share:.0%} expected ({examples})",
        fix="look for the missing files, or raise validation.max_missing_share if this is intended",
        allowed_share=lambda settings: settings.max_missing_share,
    ),
    _expectation(
        name="audio_embedded",
        severity="block",
        title="Audio is stored in the table itself, not as a path",
        check=is_true("embedded"),
        happened="{n} {name} an audio file but {do} not contain it ({examples})",
        fix="import the dataset again with its audio folder available",
    ),
    _expectation(
        name="audio_not_empty",
        severity="block",
        title="No recording is empty",
        check=is_true("non_empty"),
        happened="the audio of {n} has zero length ({examples})",
        fix="export these recordings again, or leave their audio out",
    ),
    _expectation(
        name="audio_decodes",
        severity="block",
        title="Every recording decodes to its end",
        check=is_true("decodes"),
        happened="the audio of {n} does not decode, or is cut off before its end ({examples})",
        fix="export these recordings again as WAV, FLAC, OGG or MP3, or leave their audio out",
    ),
    _expectation(
        name="audio_rate",
        severity="block",
        title="The sample rate is at least {min_sample_rate} Hz",
        check=lambda _, settings: is_between("rate", min_value=settings.min_sample_rate),
        happened="the audio of {n} has a sample rate under {min_sample_rate} Hz ({examples})",
        fix="export the original recordings at 16000 Hz, or lower validation.min_sample_rate",
        example="{location}: {rate:.0f} Hz",
    ),
    _expectation(
        name="audio_channels",
        severity="warn",
        title="A recording has at most {max_channels} channels",
        check=lambda _, settings: is_between("channels", max_value=settings.max_channels),
        happened="the audio of {n} has more than {max_channels} channels ({examples})",
        fix="export the speaker's channel alone: the model gets the mean of all channels",
        example="{location}: {channels:.0f}",
    ),
    _expectation(
        name="audio_duration",
        severity="block",
        title="A recording lasts {min_seconds:g} to {max_seconds:g} seconds",
        check=lambda _, settings: is_between("seconds", min_value=settings.min_seconds, max_value=settings.max_seconds),
        happened="the audio of {n} is shorter than {min_seconds:g} s or longer than {max_seconds:g} s ({examples})",
        fix="cut the recordings at the boundaries of the utterances, or change validation.min_seconds or max_seconds",
        example="{location}: {seconds:.3g} s",
    ),
    _expectation(
        name="audio_silent",
        severity="block",
        title="At most {max_silent_share:.0%} of the recordings are silent (below {silence_dbfs:g} dBFS, wholly or nearly so)",
        check=is_true("audible"),
        happened="{n} {are} silent, more than the {max_silent_share:.0%} allowed ({examples})",
        fix="look for a muted channel or wrong cutting times, or raise validation.max_silent_share",
        allowed_share=lambda settings: settings.max_silent_share,
    ),
    _expectation(
        name="audio_clipped",
        severity="block",
        title="At most {max_clipped_share:.0%} of the recordings have over {max_clipped_samples:.1%} of samples clipped",
        check=lambda _, settings: is_between("clipped", max_value=settings.max_clipped_samples),
        happened="{n} {are} clipped, more than the {max_clipped_share:.0%} allowed ({examples})",
        fix="record or export them at a lower level, or raise validation.max_clipped_share",
        allowed_share=lambda settings: settings.max_clipped_share,
    ),
    _expectation(
        name="audio_dc_offset",
        severity="warn",
        title="At most {max_dc_share:.0%} of the recordings have a DC offset of more than {max_dc_offset:g} of full scale",
        check=lambda _, settings: is_between("dc_offset", max_value=settings.max_dc_offset),
        happened="the audio of {n} has a DC offset, more than the {max_dc_share:.0%} expected ({examples})",
        fix="remove the offset with a high-pass filter; a sound card or a sign error causes it",
        example="{location}: {dc_offset:.2f}",
        allowed_share=lambda settings: settings.max_dc_share,
    ),
    _expectation(
        name="audio_repeated",
        severity="warn",
        title="At most {max_repeated_share:.0%} of the recordings occur more than once",
        check=is_between("copies", max_value=1),
        happened="the audio of {n} is that of another utterance, more than the {max_repeated_share:.0%} expected "
        "({examples})",
        fix="look for files that were copied or cut at the wrong places",
        allowed_share=lambda settings: settings.max_repeated_share,
    ),
    _expectation(
        name="audio_varies",
        severity="block",
        title="No recording makes up over {max_same_audio:.0%} of the recordings of a split",
        table="split_recordings",
        rows=lambda dataset, _: most_frequent(dataset.facts.utterances, "sound"),
        noun="split",
        check=lambda _, settings: is_between("share", max_value=settings.max_same_audio),
        happened="{n} {have} nearly the same recording everywhere ({examples})",
        fix="look for paths that all name one file, and import the recordings again; the bound is validation.max_same_audio",
        example="{copies} of {utterances} in {split}, first in {location}",
    ),
)
