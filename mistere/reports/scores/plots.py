"""The plots of ``scores.html``: shares over time with intervals, and a call turn by turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mistere.reports.html_page import figure_svg
from mistere.reports.plots import ACCENT, GREY, WIDTH, one_plot, quiet, short

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from mistere.scoring.chosen_calls import CallTimeline
    from mistere.scoring.groups import Period

GROUP_COLORS: Final = ("#3f76cf", "#c06a14", "#22876a", "#a663c7", "#c75b7a")
_MOST_COLUMNS: Final = 90
_FAINTEST: Final = 0.04


def trend_plot(periods: Sequence[Period], label: int, name: str, by_week: bool) -> Markup:
    """The share of an emotion over time with its interval."""
    figure, axes = one_plot(WIDTH, 1.75)
    quiet(axes, "y")
    _band(axes, periods, label, ACCENT, by_week)
    axes.set_title(short(name, 40), fontsize=10, loc="left", fontweight="bold")
    _frame(axes, [periods], label)
    return figure_svg(figure, f"Share of {name} over time, with its 95 % interval")


def group_plot(series: Mapping[str, Sequence[Period]], label: int, name: str, column: str, by_week: bool) -> Markup:
    """The share of an emotion over time in several groups."""
    figure, axes = one_plot(WIDTH, 2.3)
    quiet(axes, "y")
    lines = [
        _band(axes, periods, label, GROUP_COLORS[position % len(GROUP_COLORS)], by_week)
        for position, periods in enumerate(series.values())
    ]
    axes.set_title(f"{short(name, 24)} by {short(column, 24)}", fontsize=10, loc="left", fontweight="bold")
    _frame(axes, list(series.values()), label)
    # Names of their own lines would be left out if they begin with an underscore.
    figure.legend(
        lines, [short(group, 22) for group in series], loc="outside lower left", ncols=3, frameon=False, fontsize=8
    )
    return figure_svg(figure, f"Share of {name} over time by {column}, with 95 % intervals")


def _band(axes: Axes, periods: Sequence[Period], label: int, color: str, by_week: bool) -> Line2D:
    """Draw a line with its interval, and return it; a period that is not reported leaves a gap."""
    import matplotlib.dates as dates

    step = 7 if by_week else 1
    runs: list[list[Period]] = []
    for period in periods:
        if runs and (period.start - runs[-1][-1].start).days == step:
            runs[-1].append(period)
        else:
            runs.append([period])
    lines: list[Line2D] = []
    for run in runs:
        x = [float(dates.date2num(period.start)) for period in run]  # type: ignore[no-untyped-call]
        value, low, high = (
            [100 * float(getattr(period.estimates, bound)[label]) for period in run]
            for bound in ("value", "low", "high")
        )
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        lines += axes.plot(x, value, color=color, linewidth=1.7, marker="o", markersize=2.6)
        if len(run) == 1:
            axes.vlines(x, low, high, color=color, alpha=0.4, linewidth=2)
    return lines[0]


def _frame(axes: Any, series: Sequence[Sequence[Period]], label: int) -> None:
    import matplotlib.dates as dates
    from matplotlib.ticker import MaxNLocator

    top = max(float(period.estimates.high[label]) for periods in series for period in periods)
    axes.set_ylim(0, max(1.0, 108 * top))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    locator = dates.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=False))
    axes.tick_params(axis="both", labelsize=8, colors="black")
    axes.spines["bottom"].set_color(GREY)


def timeline_svg(timeline: CallTimeline, labels: Sequence[str], order: Sequence[int], marked: int) -> Markup:
    """A call as a strip for each emotion: the darker a turn, the more probable the emotion. Long calls are averaged.

    Args:
        timeline: the probabilities of the turns.
        labels: the emotions.
        order: indices of the emotions, from top to bottom.
        marked: the emotion whose name is bold.
    """
    from markupsafe import Markup, escape

    parts = np.array_split(timeline.probabilities, min(_MOST_COLUMNS, max(1, len(timeline.probabilities))))
    columns = [part.mean(0) for part in parts if len(part)]
    left, width, height = 96, 380, 15
    cell = (width - left) / max(1, len(columns))
    rows = []
    for row, index in enumerate(order):
        y = row * height
        weight = ' font-weight="700"' if index == marked else ""
        rows.append(
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end"{weight}>{escape(short(labels[index], 13))}</text>'
        )
        color = GROUP_COLORS[1] if index == marked else GROUP_COLORS[0]
        rows.append(
            f'<rect x="{left}" y="{y + 1}" width="{width - left}" height="{height - 2}" fill="{GREY}" opacity="0.12"/>'
        )
        for position, values in enumerate(columns):
            strength = float(values[index])
            if strength >= _FAINTEST:
                rows.append(
                    f'<rect x="{left + position * cell:.1f}" y="{y + 1}" width="{cell + 0.05:.2f}" height="{height - 2}" fill="{color}" '
                    f'opacity="{strength:.2f}"/>'
                )
    bottom = len(order) * height + 12
    first, last = (timeline.turns[0], timeline.turns[-1]) if timeline.turns else (0, 0)
    rows.append(f'<text x="{left}" y="{bottom}">turn {first}</text>')
    rows.append(f'<text x="{width}" y="{bottom}" text-anchor="end">turn {last}</text>')
    label = f"Probability of each emotion from turn {first} to turn {last}"
    return Markup(  # noqa: S704  (the labels are escaped above, everything else is a number)
        f'<svg role="img" aria-label="{label}" class="plot strip" viewBox="0 0 {width} {bottom + 4}" font-size="10.5">{"".join(rows)}</svg>'
    )
