"""``robustness.json``: what the effects of real calls cost a model, in a form that other programs may read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from mistere.data.calls.effect import Affected, Effect
from mistere.metrics.classification import Interval
from mistere.metrics.robustness import CallFigures, LevelFigures, ModelFigures


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Record):
    """A figure with its 95 % interval over resampled dialogues."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> Figure:
        """Rounded to six decimals."""
        return cls(value=round(interval.value, 6), low=round(interval.low, 6), high=round(interval.high, 6))


class Figures(_Record):
    """A model at a level.

    Attributes:
        weighted_f1: weighted F1.
        ece: expected calibration error.
        loss: weighted F1 that is lost on the same turns, paired; null without an effect.
    """

    weighted_f1: Figure
    ece: Figure
    loss: Figure | None

    @classmethod
    def of(cls, figures: ModelFigures) -> Figures:
        """From the measurement."""
        loss = None if figures.loss is None else Figure.of(figures.loss)
        return cls(weighted_f1=Figure.of(figures.weighted_f1), ece=Figure.of(figures.ece), loss=loss)


class LevelReport(_Record):
    """A level of an effect.

    Attributes:
        name: the level; ``clean`` without an effect.
        label: on the axis of a plot.
        words: describes it.
        turns: turns with a label that are left.
        model: the model.
        beside: the model beside it; null for none, or if that lacks the modality.
        difference: weighted F1 of the model minus that of the one beside it, paired; null without one.
    """

    name: str
    label: str
    words: str
    turns: int
    model: Figures
    beside: Figures | None
    difference: Figure | None

    @classmethod
    def of(cls, name: str, label: str, words: str, figures: LevelFigures) -> LevelReport:
        """From the measurement."""
        return cls(
            name=name,
            label=label,
            words=words,
            turns=figures.turns,
            model=Figures.of(figures.model),
            beside=None if figures.other is None else Figures.of(figures.other),
            difference=None if figures.difference is None else Figure.of(figures.difference),
        )


class EffectReport(_Record):
    """An effect, with its levels from weak to strong."""

    name: str
    title: str
    affects: Affected
    levels: list[LevelReport]


class ReportedModel(_Record):
    """A measured model; ``version`` is empty if the registry does not know it, or it was named by its bundle."""

    bundle_digest: str
    version: str


class CallReport(_Record):
    """What was measured, on what, and with which result.

    Attributes:
        schema_version: of this form.
        dataset: name of the dataset.
        dataset_digest: identifies its content.
        split: the split.
        dialogues: number of dialogues.
        turns: number of turns with a label in them.
        seed: of the effects and the resamples.
        resamples: of the dialogues, for the intervals.
        model: the model.
        beside: the model beside it; null for none.
        without_beside: why there is none; empty if there is one.
        clean: without an effect.
        effects: the effects that the model notices.
    """

    schema_version: Literal[1] = 1
    dataset: str
    dataset_digest: str
    split: str
    dialogues: int
    turns: int
    seed: int
    resamples: int
    model: ReportedModel
    beside: ReportedModel | None
    without_beside: str
    clean: LevelReport
    effects: list[EffectReport]

    def levels(self) -> Iterator[LevelReport]:
        """The levels of all effects."""
        return (level for effect in self.effects for level in effect.levels)

    def shown_losses(self, margin: float) -> list[LevelReport]:
        """The levels at which more than ``margin`` is shown to be lost against the model beside it: the whole interval is below."""
        return [one for one in self.levels() if one.difference is not None and one.difference.high < -margin]


def clean_report(figures: LevelFigures) -> LevelReport:
    """The level without an effect."""
    return LevelReport.of("clean", "clean", "the recordings and transcripts as they are", figures)


def effect_reports(effects: Sequence[Effect], figures: CallFigures) -> list[EffectReport]:
    """The effects with the levels that were measured; without those of which none was."""
    reports = []
    for effect in effects:
        levels = [
            LevelReport.of(level.name, level.label, level.words, figures.levels[level.name])
            for level in effect.levels
            if level.name in figures.levels
        ]
        if levels:
            reports.append(EffectReport(name=effect.name, title=effect.title, affects=effect.affected, levels=levels))
    return reports
