"""The effects of real calls on a page: curves of weighted F1 and calibration over the levels, and the rows of their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mistere.evaluation.call_report import EffectReport, Figures, LevelReport
from mistere.reports.calls.summary import bounds, number, signed
from mistere.reports.html_page import figure_svg, new_figure
from mistere.reports.plots import ACCENT, GREY, WIDTH, quiet

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

CURVES: Final = {"weighted_f1": "weighted F1", "ece": "expected calibration error"}
_NONE: Final = "–"


@dataclass(frozen=True)
class LevelRow:
    """A level in a table, as text; ``tone`` is the CSS class of a difference that is clear."""

    words: str
    weighted_f1: str
    lost: str
    ece: str
    other: str
    difference: str
    tone: str


@dataclass(frozen=True)
class CallSection:
    """An effect: its title, a plot for each of :data:`CURVES`, and a row for each level."""

    title: str
    plots: list[Markup]
    rows: list[LevelRow]


def call_sections(clean: LevelReport, effects: Sequence[EffectReport]) -> list[CallSection]:
    """Draw and describe each effect.

    Args:
        clean: without an effect, where each curve starts.
        effects: the effects.
    """
    return [
        CallSection(
            effect.title,
            [_curve(clean, effect, key, title) for key, title in CURVES.items()],
            [level_row(level) for level in effect.levels],
        )
        for effect in effects
    ]


def level_row(level: LevelReport) -> LevelRow:
    """A level as text."""
    model, other, difference = level.model, level.beside, level.difference
    tone = ""
    if difference is not None:
        tone = "worse" if difference.high < 0 else "better" if difference.low > 0 else ""
    return LevelRow(
        words=level.words,
        weighted_f1=f"{number(model.weighted_f1.value)} {bounds(model.weighted_f1)}",
        lost=_NONE if model.loss is None else signed(model.loss),
        ece=number(model.ece.value),
        other=_NONE if other is None else f"{number(other.weighted_f1.value)}, error {number(other.ece.value)}",
        difference=_NONE if difference is None else signed(difference),
        tone=tone,
    )


def _curve(clean: LevelReport, effect: EffectReport, key: str, title: str) -> Markup:
    """A figure from the unchanged input to the strongest level, and that of the model beside it."""
    figure = new_figure(WIDTH, 2.2)
    axes = figure.add_subplot()
    quiet(axes, "y")
    levels = [clean, *effect.levels]
    _line(axes, levels, key, beside=True)
    _line(axes, levels, key, beside=False)
    axes.set_xticks(range(len(levels)))
    axes.set_xticklabels([level.label for level in levels])
    axes.set_xlim(-0.2, len(levels) - 0.8)
    axes.set_title(title, fontsize=9)
    if key == "ece":
        axes.set_ylim(bottom=0)
    return figure_svg(figure, f"{effect.title}: {title} by level")


def _line(axes: Axes, levels: Sequence[LevelReport], key: str, *, beside: bool) -> None:
    points = [(x, figures) for x, level in enumerate(levels) if (figures := _figures(level, beside)) is not None]
    if not points:
        return
    positions = [x for x, _ in points]
    estimates = [getattr(figures, key) for _, figures in points]
    color = GREY if beside else ACCENT
    dashes = (0, (4, 2)) if beside else "-"
    face = "#ffffff" if beside else color
    values = [one.value for one in estimates]
    axes.plot(positions, values, "o", ls=dashes, ms=4, lw=1.7, color=color, markerfacecolor=face)  # type: ignore[arg-type]
    if not beside:
        lows, highs = [one.low for one in estimates], [one.high for one in estimates]
        axes.fill_between(positions, lows, highs, color=color, alpha=0.15, linewidth=0)


def _figures(level: LevelReport, beside: bool) -> Figures | None:
    return level.beside if beside else level.model
