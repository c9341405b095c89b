"""Expectations of transcript and recording together: they must belong to the same utterance."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_at_least, is_between
from mistere.common.splits import SPLITS
from mistere.config.validation import ValidationSettings

if TYPE_CHECKING:
    import pandas as pd

_FEWEST_PAIRS = 50


class Settings(ValidationSettings):
    """Bounds of the pairs."""

    min_letters_per_second: float = Field(
        default=0.3, ge=0, description="with fewer, a recording is too long for its transcript."
    )
    max_letters_per_second: float = Field(
        default=45.0, gt=0, description="with more, a recording is too short for its transcript."
    )
    max_misfit_share: float = Field(
        default=0.05, ge=0, le=1, description="share of utterances that may be outside these two bounds."
    )
    min_length_correlation: float = Field(
        default=0.2,
        ge=-1,
        le=1,
        description="least rank correlation between the lengths of transcripts and recordings in a split.",
    )


def _no_pairs(dataset: Dataset) -> str:
    fits = dataset.facts.utterances["letters_per_second"].notna().any()
    return "" if fits else "no utterance has both text and audio"


def _lengths(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """Rank correlation (Spearman) of the lengths of transcripts and recordings, of splits with enough pairs."""
    import pandas as pd

    table_rows = []
    rows = dataset.facts.utterances
    pairs = rows[rows["letters_per_second"].notna()]
    for split in SPLITS:
        own = pairs.loc[pairs["split"] == split, ["text_length", "seconds"]].rank()
        if len(own) >= _FEWEST_PAIRS and own["text_length"].nunique() > 1 and own["seconds"].nunique() > 1:
            correlation = float(own["text_length"].corr(own["seconds"]))
            table_rows.append((split, len(own), correlation, settings.min_length_correlation))
    return pd.DataFrame(table_rows, columns=["split", "pairs", "correlation", "bound"])


_expectation = partial(
    Expectation[Settings],
    layer="Text and audio",
    severity="block",
    settings=Settings,
    needs=("text", "audio"),
    not_checked=_no_pairs,
)
EXPECTATIONS = (
    _expectation(
        name="text_fits_duration",
        title="At most {max_misfit_share:.0%} of the transcripts are too long or too short for their recordings "
        "({min_letters_per_second:g} to {max_letters_per_second:g} letters a second)",
        check=lambda _, settings: is_between(
            "letters_per_second",
            min_value=settings.min_letters_per_second,
            max_value=settings.max_letters_per_second,
        ),
        happened="the text of {n} is too long or too short for the recording, more than the {max_misfit_share:.0%} "
        "allowed ({examples})",
        fix="look for recordings that were cut at the wrong times, or text of other utterances",
        example="{location}: {text_length:.0f} letters in {seconds:.1f} s",
        allowed_share=lambda settings: settings.max_misfit_share,
    ),
    _expectation(
        name="text_follows_duration",
        title="Longer transcripts belong to longer recordings",
        table="lengths",
        rows=_lengths,
        check=is_at_least("correlation", "bound"),
        happened="the lengths of transcripts and recordings are unrelated ({examples})",
        fix="text and audio are most likely of different utterances: join them again by their ids",
        example="{split}: rank correlation {correlation:.2f} over {pairs} utterances, at least {bound:.2f} expected",
    ),
)
