"""Expectations of the modalities beside speech and text: readable, of one width, and present."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_between, is_true
from mistere.config.validation import ValidationSettings

if TYPE_CHECKING:
    import pandas as pd


def _no_cells(dataset: Dataset) -> str:
    return "" if dataset.declared.modalities else "the dataset declares no modality beside speech and text"


def _missing(dataset: Dataset, _: ValidationSettings) -> pd.DataFrame:
    """Utterances without each of the modalities."""
    import pandas as pd

    cells = dataset.facts.cells
    rows = []
    for modality in dataset.declared.modalities:
        own = cells["present"][cells["modality"] == modality].astype(bool)
        rows.append((modality, len(own), int((~own).sum()), float((~own).mean()) if len(own) else 0.0))
    return pd.DataFrame(rows, columns=["modality", "utterances", "missing", "share"])


_expectation = partial(
    Expectation[ValidationSettings], layer="Modalities", settings=ValidationSettings, not_checked=_no_cells
)
EXPECTATIONS = (
    _expectation(
        name="modality_readable",
        severity="block",
        title="Every image and every vector can be read",
        table="cells",
        check=is_true("usable"),
        happened="{n} cannot be read ({examples})",
        fix="export them again, or leave them out",
        example="{modality} of {location}: {problem}",
    ),
    _expectation(
        name="modality_width",
        severity="block",
        title="All vectors of a modality have the same number of values",
        table="cells",
        check=is_true("width_fits"),
        happened="{n} {have} another width than most ({examples})",
        fix="compute them with the same feature extractor, or leave them out",
        example="{modality} of {location}: {width:.0f} values, not {expected_width:.0f}",
    ),
    _expectation(
        name="modality_present",
        severity="warn",
        title="At most {max_missing_share:.0%} of the utterances lack a modality that the dataset declares",
        table="missing_modalities",
        rows=_missing,
        noun="column",
        check=lambda _, settings: is_between("share", max_value=settings.max_missing_share),
        happened="{n} {are} missing more often than the {max_missing_share:.0%} expected ({examples})",
        fix="look for the missing values, or raise validation.max_missing_share if this is intended",
        example="{modality}: {missing} of {utterances} utterances",
    ),
)
