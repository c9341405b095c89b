"""Expectations of drift: the dataset resembles the one that the champion was trained on."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, escape_braces, is_at_least
from components.validate_data.facts.drift import Drift, DriftBounds
from mistere.config.composition import select
from mistere.config.validation import Severity, ValidationSettings


class Settings(ValidationSettings):
    """Bounds of drift."""

    max_label_drift: float = Field(
        default=0.10, gt=0, le=1, description="Jensen-Shannon distance of the label shares from the champion's dataset."
    )
    max_vocabulary_drift: float = Field(
        default=0.30, gt=0, le=1, description="Jensen-Shannon distance of the word shares from the champion's dataset."
    )
    max_duration_drift: float = Field(
        default=0.15,
        gt=0,
        le=1,
        description="largest difference (0..1) between the two cumulative distributions of durations.",
    )
    max_text_length_drift: float = Field(
        default=0.15,
        gt=0,
        le=1,
        description="largest difference (0..1) between the two cumulative distributions of transcript lengths.",
    )
    max_level_drift: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="largest difference (0..1) between the two cumulative distributions of levels.",
    )


def drift_bounds(config: ValidationSettings) -> DriftBounds:
    """What each measure may be, from the whole ``validation`` section."""
    own = select(config, Settings)
    return DriftBounds(
        labels=own.max_label_drift,
        label_meaning=own.max_label_exchange,
        duration=own.max_duration_drift,
        text_length=own.max_text_length_drift,
        level=own.max_level_drift,
        vocabulary=own.max_vocabulary_drift,
    )


def _drift(dataset: Dataset, measure: str) -> Drift | None:
    return next((drift for drift in dataset.drifts if drift.measure == measure), None)


def _not_checked(measure: str) -> Callable[[Dataset], str]:
    def reason(dataset: Dataset) -> str:
        if _drift(dataset, measure):
            return ""
        return "one of the two datasets lacks this" if dataset.drifts else "there is no champion with a data profile"

    return reason


def _happened(measure: str) -> Callable[[Dataset], str]:
    def text(dataset: Dataset) -> str:
        drift = _drift(dataset, measure)
        if drift is None:
            return ""
        detail = f" ({drift.detail})" if drift.detail else ""
        if measure == "label_set":
            sentence = f"the labels are not those of the champion{detail}"
        elif measure == "label_meaning":
            sentence = f"labels were exchanged compared with those of the champion{detail}"
        else:
            sentence = (
                f"{drift.what} moved away from those of the champion's dataset: distance {drift.distance:.2f}, "
                f"{drift.bound:.2f} allowed{detail}"
            )
        return escape_braces(escape_braces(sentence))  # two templates are filled in: settings, then failing rows

    return text


def _expectation(measure: str, severity: Severity, title: str, fix: str) -> Expectation[Settings]:
    return Expectation(
        name=f"drift_{measure}",
        layer="Drift",
        severity=severity,
        settings=Settings,
        title=title,
        table=f"drift_{measure}",
        check=is_at_least("bound", "distance"),
        happened=_happened(measure),
        fix=fix,
        not_checked=_not_checked(measure),
    )


EXPECTATIONS = (
    _expectation(
        "label_set",
        "warn",
        "The labels are those of the champion",
        "a model with other labels is another model: check that this is intended",
    ),
    _expectation(
        "labels",
        "warn",
        "The labels have the shares of the champion's dataset",
        "check the labelling of the new data; the bound is validation.max_label_drift",
    ),
    _expectation(
        "label_meaning",
        "block",
        "The labels go with the words of the champion's dataset",
        "compare the label maps with which the two were made; the bound is validation.max_label_exchange",
    ),
    _expectation(
        "duration",
        "warn",
        "The recordings are as long as those of the champion's dataset",
        "check how the new recordings were cut; the bound is validation.max_duration_drift",
    ),
    _expectation(
        "text_length",
        "warn",
        "The transcripts are as long as those of the champion's dataset",
        "check how the new transcripts were made; the bound is validation.max_text_length_drift",
    ),
    _expectation(
        "level",
        "warn",
        "The recordings are as loud as those of the champion's dataset",
        "check the microphones and the gain of the new recordings; the bound is validation.max_level_drift",
    ),
    _expectation(
        "vocabulary",
        "warn",
        "The words are those of the champion's dataset",
        "check the source of the new transcripts; the bound is validation.max_vocabulary_drift",
    ),
)
