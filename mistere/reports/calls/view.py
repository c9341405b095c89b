"""The effects of real calls in the evaluation of a run, or of two models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistere.data.calls.catalogue import EFFECTS
from mistere.evaluation.call_report import clean_report, effect_reports
from mistere.metrics.robustness import CallFigures, LevelFigures, calls_from_metrics
from mistere.reports.calls.sections import CallSection, LevelRow, call_sections, level_row
from mistere.reports.calls.summary import comparison, lead
from mistere.reports.evaluated_model import Evaluated

_THIS = "this model"


@dataclass(frozen=True)
class CallView:
    """What a page shows of ``evaluation.calls``.

    Attributes:
        name: the model.
        other: the model beside it; empty for none.
        turns: turns with a label that it was measured on.
        lead: what is lost most.
        comparison: how it compares with the other, in words; empty without paired differences.
        sections: the effects.
        rows: all levels, the unchanged input first.
    """

    name: str
    other: str
    turns: int
    lead: str
    comparison: str
    sections: list[CallSection]
    rows: list[LevelRow]


def call_view(models: Sequence[Evaluated], champion_name: str = "previous champion") -> CallView | None:
    """The figures of one model with its champion's beside it, or of two models; None if they were not measured.

    Args:
        models: one or two.
        champion_name: what the model that a single one was compared with is called.
    """
    measured = [
        (model.title, figures)
        for model in models
        if (figures := calls_from_metrics(model.evaluation.metrics)) is not None
    ]
    if not measured:
        return None
    name, figures = measured[0]
    if len(models) > 1:
        other = measured[1][0] if len(measured) > 1 else ""
        figures = _side_by_side(figures, measured[1][1] if len(measured) > 1 else None)
    else:
        compared = [level for level in figures.levels.values() if level.other or level.difference]
        other = champion_name if compared else ""
    clean, effects = clean_report(figures.clean), effect_reports(list(EFFECTS.values()), figures)
    levels = [level for effect in effects for level in effect.levels]
    sections = call_sections(clean, effects)
    return CallView(
        name=name or _THIS,
        other=other,
        turns=clean.turns,
        lead=lead(clean, levels),
        comparison=comparison(levels, f"the {other}") if other and len(models) == 1 else "",
        sections=sections,
        rows=[level_row(clean), *(row for section in sections for row in section.rows)],
    )


def _side_by_side(figures: CallFigures, other: CallFigures | None) -> CallFigures:
    """A model with the own figures of another one instead of its champion's; nothing is paired."""
    by_name = {} if other is None else {"clean": other.clean, **other.levels}

    def beside(name: str, level: LevelFigures) -> LevelFigures:
        return LevelFigures(level.turns, level.model, by_name[name].model if name in by_name else None)

    levels = {name: beside(name, level) for name, level in figures.levels.items()}
    return CallFigures(beside("clean", figures.clean), levels)
