"""Estimates as dots with intervals, a row each, of one model or of two side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mistere.reports.html_page import figure_svg
from mistere.reports.plots import GREY, MIXTURE_COLOR, WIDTH, expert_color, one_plot, short, spoken
from mistere.runs.outcome import Estimate

if TYPE_CHECKING:
    from markupsafe import Markup

_LINE = 24
_LONGEST = 60


@dataclass(frozen=True)
class IntervalRow:
    """One row: a name, and an estimate per model; None for a model that lacks it."""

    name: str
    estimates: Sequence[Estimate | None]
    color: str
    strong: bool = False


def interval_plot(
    rows: Sequence[IntervalRow],
    xlabel: str,
    label: str,
    line: tuple[float, str] | None = None,
    signed: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Markup | None:
    """Draw dots with intervals; the second model's dots are hollow. None without any estimate.

    Args:
        rows: from top to bottom.
        xlabel: of the axis.
        label: text for screen readers.
        line: a reference value across all rows, and its description.
        signed: whether values are shown with their sign.
        bounds: limits of the axis.
    """
    from matplotlib.ticker import MaxNLocator

    known = [estimate for row in rows for estimate in row.estimates if estimate is not None]
    if not known:
        return None
    names = [textwrap.fill(short(row.name, _LONGEST), _LINE) for row in rows]
    several = max(len(row.estimates) for row in rows) > 1
    height = sum(0.36 if "\n" not in name else 0.44 for name in names) + (0.06 * len(rows) if several else 0)
    figure, axes = one_plot(WIDTH, 0.66 + height)
    shift = 0.17 if several else 0.0
    for position, row in enumerate(rows):
        for number, estimate in enumerate(row.estimates):
            if estimate is None:
                continue
            at = position + shift * (2 * number - 1)
            if estimate.low is not None and estimate.high is not None:
                axes.hlines(
                    at, estimate.low, estimate.high, color=row.color, linewidth=3 if row.strong else 2, alpha=0.65
                )
            size = (8.5 if row.strong else 6.5) - (1.5 if several else 0)
            face = row.color if number == 0 else "#ffffff"
            axes.plot(
                estimate.value, at, "o", color=row.color, markersize=size, markerfacecolor=face, markeredgewidth=1.4
            )
        values = " / ".join(
            "none" if estimate is None else _number(estimate.value, signed) for estimate in row.estimates
        )
        axes.text(1.02, position, values, transform=axes.get_yaxis_transform(), va="center")
    ends = [end for estimate in known for end in (estimate.value, estimate.low, estimate.high) if end is not None]
    if line is not None:
        axes.axvline(line[0], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
        ends.append(line[0])
    low, high = min(ends), max(ends)
    margin = max(0.1 * (high - low), 0.01)
    low, high = max(bounds[0], low - margin), min(bounds[1], high + margin)
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.6), yticks=range(len(rows)))
    if line is not None and line[1]:
        right = line[0] > (low + high) / 2
        axes.annotate(
            line[1], (line[0], 1), (-3 if right else 3, 3), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=8, ha="right" if right else "left",
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticklabels(names)
    axes.set_xlabel(xlabel)
    return figure_svg(figure, label)


def _number(value: float, signed: bool) -> str:
    return f"{value:+z.3f}" if signed else f"{value:.3f}"


def experts_plot(
    mixture: Sequence[Estimate | None],
    experts: Mapping[str, Sequence[Estimate | None]],
    majority: float | None,
    champion: Estimate | None = None,
    champion_name: str = "previous champion",
) -> Markup | None:
    """Weighted F1 of the mixture, of each expert alone and of the champion, with an estimate per model."""
    rows = [IntervalRow("mixture", mixture, MIXTURE_COLOR, strong=True)]
    for position, (name, values) in enumerate(experts.items()):
        rows.append(IntervalRow(f"{spoken(name)} alone", values, expert_color(name, position)))
    if champion is not None:
        rows.append(IntervalRow(champion_name, [champion], GREY))
    line = None if majority is None else (majority, f"always the most frequent emotion: {majority:.3f}")
    label = "Weighted F1 of the mixture beside each expert alone, with intervals"
    return interval_plot(rows, "weighted F1 on the test split", label, line)


def losses_plot(rows: Sequence[IntervalRow], label: str) -> Markup | None:
    """Losses of weighted F1, around a line at zero."""
    return interval_plot(rows, "loss of weighted F1", label, (0.0, ""), signed=True, bounds=(-1.0, 1.0))
