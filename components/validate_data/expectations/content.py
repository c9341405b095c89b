"""Expectations of what is said and heard: transcripts, recordings, and the two of them together."""

from __future__ import annotations

from typing import Any

from components.validate_data.expectations.rule import Rule, is_at_least, is_between, is_false, is_true
from components.validate_data.facts.tables import Facts
from components.validate_data.facts.transcript_facts import scripts_of
from mistere.config.validation import ValidationConfig


def text_rules(facts: Facts, language: str, config: ValidationConfig) -> list[Rule]:
    """Transcripts that are there, whole, in the language, and not boilerplate."""
    has_text = bool((facts.utterances["text_length"] > 0).any())
    absent = "" if has_text else "the dataset has no text"
    applies: dict[str, Any] = {"layer": "Text", "needs": ("text",), "not_checked": absent}
    scripts = scripts_of(language)
    known = "" if scripts else f"the script of the language '{language}' is not known"
    lacking, damaged = f"{config.max_missing_share:.0%}", f"{config.max_damaged_share:.1%}"
    foreign, repeated = f"{config.max_foreign_share:.0%}", f"{config.max_repeated_share:.0%}"
    return [
        Rule(
            name="text_present",
            title=f"At most {lacking} of the utterances lack a transcript",
            expectation=is_between("text_length", min_value=1),
            happened=f"{{n}} {{have}} no transcript, more than the {lacking} expected ({{examples}})",
            mend="transcribe them, or, where this is meant, raise validation.max_missing_share",
            allowed_share=config.max_missing_share,
            **applies,
        ),
        Rule(
            name="text_encoding",
            title=f"At most {damaged} of the transcripts show encoding damage",
            expectation=is_false("damaged"),
            happened=f"the text of {{n}} shows that its encoding was mistaken, more than the {damaged} allowed ({{examples}})",
            mend="export it again as UTF-8, or import it again: importing repairs what can be repaired",
            allowed_share=config.max_damaged_share,
            **applies,
        ),
        Rule(
            name="text_script",
            title=f"At most {foreign} of the transcripts are in another script than the language's",
            expectation=is_between("foreign", max_value=config.max_foreign_letters),
            happened=f"the text of {{n}} is not in the script of '{language}', more than the {foreign} allowed ({{examples}})",
            mend="take these out, or correct 'language' in dataset.yaml",
            allowed_share=config.max_foreign_share,
            **{**applies, "not_checked": absent or known},
        ),
        Rule(
            name="text_repeated",
            title=f"No sentence of four words or more makes up over {repeated} of the utterances",
            table="phrases",
            expectation=is_between("share", max_value=config.max_repeated_share),
            happened="the same text stands in many utterances ({examples})",
            mend="look for a transcriber's boilerplate or a copied cell, or raise validation.max_repeated_share",
            example="{utterances} times, first in {place}",
            **applies,
        ),
        Rule(
            name="text_length",
            title=f"No transcript is longer than {config.max_text_length} characters",
            expectation=is_between("text_length", max_value=config.max_text_length),
            happened=f"the text of {{n}} is longer than {config.max_text_length} characters ({{examples}})",
            mend="cut them at the utterances' bounds, or raise validation.max_text_length",
            example="{place}: {text_length}",
            **applies,
        ),
    ]


def audio_rules(facts: Facts, config: ValidationConfig) -> list[Rule]:
    """Recordings that are there, decode, and hold speech at a fair level."""
    applies: dict[str, Any] = {
        "layer": "Audio",
        "needs": ("audio",),
        "not_checked": "" if facts.utterances["has_audio"].any() else "the dataset has no audio",
    }
    low, high, rate = f"{config.min_seconds:g}", f"{config.max_seconds:g}", config.min_sample_rate
    silent, clipped = f"{config.max_silent_share:.0%}", f"{config.max_clipped_share:.0%}"
    lacking, repeated = f"{config.max_missing_share:.0%}", f"{config.max_repeated_share:.0%}"
    shifted, offset = f"{config.max_dc_share:.0%}", config.max_dc_offset
    return [
        Rule(
            name="audio_present",
            title=f"At most {lacking} of the utterances lack a recording",
            expectation=is_true("has_audio"),
            happened=f"{{n}} {{have}} no recording, more than the {lacking} expected ({{examples}})",
            mend="look for the missing files, or, where this is meant, raise validation.max_missing_share",
            allowed_share=config.max_missing_share,
            **applies,
        ),
        Rule(
            name="audio_embedded",
            title="Audio is stored in the table itself, not as a path",
            expectation=is_true("embedded"),
            happened="{n} {name} an audio file but {do} not hold it ({examples})",
            mend="import the dataset again with its audio folder at hand",
            **applies,
        ),
        Rule(
            name="audio_not_empty",
            title="No recording is empty",
            expectation=is_true("non_empty"),
            happened="the audio of {n} has zero length ({examples})",
            mend="export these recordings again, or leave their audio out",
            **applies,
        ),
        Rule(
            name="audio_decodes",
            title="Every recording decodes to its end",
            expectation=is_true("decodes"),
            happened="the audio of {n} does not decode, or breaks off before its end ({examples})",
            mend="export these recordings again as WAV, FLAC, OGG or MP3, or leave their audio out",
            **applies,
        ),
        Rule(
            name="audio_rate",
            title=f"The sample rate is at least {rate} Hz",
            expectation=is_between("rate", min_value=rate),
            happened=f"the audio of {{n}} has a sample rate under {rate} Hz ({{examples}})",
            mend="export the original recordings at 16000 Hz, or lower validation.min_sample_rate",
            example="{place}: {rate:.0f} Hz",
            **applies,
        ),
        Rule(
            name="audio_channels",
            title=f"A recording has at most {config.max_channels} channels",
            expectation=is_between("channels", max_value=config.max_channels),
            happened=f"the audio of {{n}} has more than {config.max_channels} channels ({{examples}})",
            mend="export the speaker's channel alone: the mean of all channels is what is heard",
            example="{place}: {channels:.0f}",
            **applies,
        ),
        Rule(
            name="audio_duration",
            title=f"A recording lasts {low} to {high} seconds",
            expectation=is_between("seconds", min_value=config.min_seconds, max_value=config.max_seconds),
            happened=f"the audio of {{n}} is shorter than {low} s or longer than {high} s ({{examples}})",
            mend="cut the recordings at the utterances' bounds, or change validation.min_seconds or max_seconds",
            example="{place}: {seconds:.3g} s",
            **applies,
        ),
        Rule(
            name="audio_silent",
            title=f"At most {silent} of the recordings are silent (under {config.silence_dbfs:g} dBFS, or nearly all of it)",
            expectation=is_true("audible"),
            happened=f"{{n}} {{are}} silent, more than the {silent} allowed ({{examples}})",
            mend="look for a muted channel or wrong cutting times, or raise validation.max_silent_share",
            allowed_share=config.max_silent_share,
            **applies,
        ),
        Rule(
            name="audio_clipped",
            title=f"At most {clipped} of the recordings have over {config.max_clipped_samples:.1%} of samples clipped",
            expectation=is_between("clipped", max_value=config.max_clipped_samples),
            happened=f"{{n}} {{are}} clipped, more than the {clipped} allowed ({{examples}})",
            mend="record or export them at a lower level, or raise validation.max_clipped_share",
            allowed_share=config.max_clipped_share,
            **applies,
        ),
        Rule(
            name="audio_dc_offset",
            title=f"At most {shifted} of the recordings are shifted off zero by more than {offset:g} of full scale",
            expectation=is_between("dc_offset", max_value=offset),
            happened=f"the audio of {{n}} is shifted off zero, more than the {shifted} expected ({{examples}})",
            mend="take the offset out with a high-pass filter; a sound card or a sign error makes it",
            example="{place}: {dc_offset:.2f}",
            allowed_share=config.max_dc_share,
            **applies,
        ),
        Rule(
            name="audio_repeated",
            title=f"At most {repeated} of the recordings occur more than once",
            expectation=is_between("copies", max_value=1),
            happened=f"the audio of {{n}} is that of another utterance, more than the {repeated} expected ({{examples}})",
            mend="look for files that were copied or cut at the wrong places",
            allowed_share=config.max_repeated_share,
            **applies,
        ),
    ]


def pairing_rules(facts: Facts, config: ValidationConfig) -> list[Rule]:
    """Transcripts that can be those of their recordings."""
    fits = bool(facts.utterances["letters_per_second"].notna().any())
    applies: dict[str, Any] = {
        "layer": "Text and audio",
        "needs": ("text", "audio"),
        "not_checked": "" if fits else "no utterance has both text and audio",
    }
    low, high = config.min_letters_per_second, config.max_letters_per_second
    share = f"{config.max_misfit_share:.0%}"
    return [
        Rule(
            name="text_fits_duration",
            title=f"At most {share} of the transcripts are too long or too short for their recordings "
            f"({low:g} to {high:g} letters a second)",
            expectation=is_between("letters_per_second", min_value=low, max_value=high),
            happened=f"the text of {{n}} is too long or too short for the recording, more than the {share} allowed ({{examples}})",
            mend="look for recordings that were cut at the wrong times, or text of other utterances",
            example="{place}: {text_length:.0f} letters in {seconds:.1f} s",
            allowed_share=config.max_misfit_share,
            **applies,
        ),
        Rule(
            name="text_follows_duration",
            title="Longer transcripts belong to longer recordings",
            table="lengths",
            expectation=is_at_least("correlation", "bound"),
            happened="the lengths of transcripts and recordings have nothing to do with each other ({examples})",
            mend="text and audio are most likely of different utterances: join them again by their ids",
            example="{split}: rank correlation {correlation:.2f} over {pairs} utterances, at least {bound:.2f} expected",
            **applies,
        ),
    ]
