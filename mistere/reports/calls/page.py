"""``robustness.html``: curves of weighted F1 and calibration over the strength of each effect, with tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistere.common.counting import counted
from mistere.evaluation.call_report import CallReport, EffectReport, Figures, LevelReport
from mistere.reports.calls.summary import bounds, comparison, lead, model_name, number, signed
from mistere.reports.html_page import figure_svg, new_figure, render_page
from mistere.reports.plots import ACCENT, GREY, WIDTH, quiet

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE: Final = Path(__file__).parent / "page.html"

_CURVES: Final = {"weighted_f1": "weighted F1", "ece": "expected calibration error"}


@dataclass(frozen=True)
class Section:
    """An effect on the page."""

    effect: EffectReport
    plots: list[Markup]


def render_calls(report: CallReport) -> str:
    """Render the page."""
    return render_page(
        TEMPLATE,
        report=report,
        name=model_name(report),
        other=model_name(report, beside=True),
        lead=lead(report),
        comparison=comparison(report),
        sections=[
            Section(effect, [_curve(report, effect, key, title) for key, title in _CURVES.items()])
            for effect in report.effects
        ],
        counted=counted,
        number=number,
        bounds=bounds,
        signed=signed,
    )


def _curve(report: CallReport, effect: EffectReport, key: str, title: str) -> Markup:
    """A figure from the unchanged input to the strongest level, and that of the model beside it."""
    figure = new_figure(WIDTH, 2.2)
    axes = figure.add_subplot()
    quiet(axes, "y")
    levels = [report.clean, *effect.levels]
    _line(axes, levels, key, beside=True)
    _line(axes, levels, key, beside=False)
    axes.set_xticks(range(len(levels)))
    axes.set_xticklabels([level.label for level in levels])
    axes.set_xlim(-0.2, len(levels) - 0.8)
    axes.set_title(title, fontsize=9)
    if key == "ece":
        axes.set_ylim(bottom=0)
    return figure_svg(figure, f"{effect.title}: {title} by level")


def _line(axes: object, levels: Sequence[LevelReport], key: str, *, beside: bool) -> None:
    points = [(x, figures) for x, level in enumerate(levels) if (figures := _figures(level, beside)) is not None]
    if not points:
        return
    positions = [x for x, _ in points]
    estimates = [getattr(figures, key) for _, figures in points]
    color = GREY if beside else ACCENT
    style = {"ls": (0, (4, 2)), "markerfacecolor": "#ffffff"} if beside else {"ls": "-"}
    draw = axes.plot  # type: ignore[attr-defined]
    draw(positions, [one.value for one in estimates], marker="o", ms=4, lw=1.7, color=color, **style)
    if not beside:
        lows, highs = [one.low for one in estimates], [one.high for one in estimates]
        axes.fill_between(positions, lows, highs, color=color, alpha=0.15, linewidth=0)  # type: ignore[attr-defined]


def _figures(level: LevelReport, beside: bool) -> Figures | None:
    return level.beside if beside else level.model
