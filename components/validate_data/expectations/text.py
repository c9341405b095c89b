"""Expectations of the transcripts: present, undamaged, in the declared language, not boilerplate."""

from __future__ import annotations

from functools import partial

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_between, is_false
from components.validate_data.facts.repetition import most_frequent
from mistere.config.validation import ValidationSettings
from mistere.data.scripts import scripts_of


class Settings(ValidationSettings):
    """Bounds of the transcripts."""

    max_text_length: int = Field(default=2000, gt=0, description="length of the longest transcript, in characters.")
    max_damaged_share: float = Field(
        default=0.005, ge=0, le=1, description="share of transcripts that may show encoding damage."
    )
    max_foreign_letters: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of a transcript's letters that may be of another script than the language's.",
    )
    max_foreign_share: float = Field(
        default=0.02, ge=0, le=1, description="share of transcripts that may be above ``max_foreign_letters``."
    )
    max_same_text: float = Field(
        default=0.5, gt=0, le=1, description="share of a split's transcripts that may be one and the same text."
    )


def _no_text(dataset: Dataset) -> str:
    return "" if (dataset.facts.utterances["text_length"] > 0).any() else "the dataset has no text"


def _no_script(dataset: Dataset) -> str:
    language = dataset.declared.language
    return _no_text(dataset) or (
        "" if scripts_of(language) else f"the script of the language '{language}' is not known"
    )


_expectation = partial(Expectation[Settings], layer="Text", settings=Settings, needs=("text",))
EXPECTATIONS = (
    _expectation(
        name="text_present",
        severity="warn",
        title="At most {max_missing_share:.0%} of the utterances lack a transcript",
        check=is_between("text_length", min_value=1),
        happened="{n} {have} no transcript, more than the {max_missing_share:.0%} expected ({examples})",
        fix="transcribe them, or raise validation.max_missing_share if this is intended",
        allowed_share=lambda settings: settings.max_missing_share,
        not_checked=_no_text,
    ),
    _expectation(
        name="text_encoding",
        severity="block",
        title="At most {max_damaged_share:.1%} of the transcripts show encoding damage",
        check=is_false("damaged"),
        happened="the text of {n} was decoded with the wrong encoding, more than the {max_damaged_share:.1%} allowed "
        "({examples})",
        fix="export it again as UTF-8, or import it again: importing repairs what can be repaired",
        allowed_share=lambda settings: settings.max_damaged_share,
        not_checked=_no_text,
    ),
    _expectation(
        name="text_script",
        severity="block",
        title="At most {max_foreign_share:.0%} of the transcripts are in another script than the language's",
        check=lambda _, settings: is_between("foreign", max_value=settings.max_foreign_letters),
        happened="the text of {n} is not in the script of '{language}', more than the {max_foreign_share:.0%} allowed "
        "({examples})",
        fix="remove these, or correct 'language' in dataset.yaml",
        allowed_share=lambda settings: settings.max_foreign_share,
        not_checked=_no_script,
    ),
    _expectation(
        name="text_repeated",
        severity="warn",
        title="No sentence of four words or more makes up over {max_repeated_share:.0%} of the utterances",
        table="phrases",
        check=lambda _, settings: is_between("share", max_value=settings.max_repeated_share),
        happened="many utterances have the same text ({examples})",
        fix="look for a transcriber's boilerplate or a copied cell, or raise validation.max_repeated_share",
        example="{utterances} times, first in {location}",
        not_checked=_no_text,
    ),
    _expectation(
        name="text_varies",
        severity="block",
        title="No text makes up over {max_same_text:.0%} of the transcripts of a split",
        table="split_texts",
        rows=lambda dataset, _: most_frequent(dataset.facts.utterances, "wording"),
        noun="split",
        check=lambda _, settings: is_between("share", max_value=settings.max_same_text),
        happened="{n} {have} nearly the same text everywhere ({examples})",
        fix="look for a column that was filled with one value, and import the transcripts again; the bound is "
        "validation.max_same_text",
        example="{copies} of {utterances} in {split}, first in {location}",
        not_checked=_no_text,
    ),
    _expectation(
        name="text_length",
        severity="warn",
        title="No transcript is longer than {max_text_length} characters",
        check=lambda _, settings: is_between("text_length", max_value=settings.max_text_length),
        happened="the text of {n} is longer than {max_text_length} characters ({examples})",
        fix="cut them at the boundaries of the utterances, or raise validation.max_text_length",
        example="{location}: {text_length}",
        not_checked=_no_text,
    ),
)
