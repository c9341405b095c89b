"""The page of ``mistere monitor``: the verdict on the traffic, every figure with its distance, and plots against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.common.counting import plural
from mistere.reports.html_page import figure_svg, new_figure, render_page
from mistere.reports.plots import ACCENT, GREY, WIDTH, one_plot, quiet, short, spoken
from mistere.runs.traffic_monitor import MonitoredTraffic, shown_day
from mistere.serving.traffic.comparison import WEEKLY_ALPHA, WORDS, Measure

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATE: Final = Path(__file__).with_name("page.html")
_AXES: Final = {
    "confidence": "probability of the predicted label",
    "seconds": "duration, seconds",
    "rms_dbfs": "level, dBFS",
    "text_length": "length, characters",
}
_MOST_BARS: Final = 30
_LEAST_CHANCE: Final = 1e-6


def render_traffic(traffic: MonitoredTraffic) -> str:
    """The page as HTML."""
    look = traffic.comparison.latest
    total = traffic.total
    measures = (
        sorted(look.measures, key=lambda one: (not one.drifted, not one.moved, -one.distance / one.bound))
        if look
        else []
    )
    return render_page(
        _TEMPLATE,
        traffic=traffic,
        verdict=traffic.comparison.verdict,
        style={"steady": "good", "watch": "wait", "drifted": "bad"}[traffic.comparison.verdict],
        day=shown_day(look.day) if look else "",
        so_far=bool(look and not look.whole),
        tiles=[
            (f"{total.total('turns'):,}", plural(total.total("turns"), "new turn")),
            (f"{total.total('dialogues'):,}", f"{plural(total.total('dialogues'), 'dialogue')} that began"),
            (f"{total.total('resent'):,}", f"{plural(total.total('resent'), 'turn')} sent again, not counted"),
            (str(len(traffic.comparison.looks)), f"{plural(len(traffic.comparison.looks), 'day')} with traffic"),
        ],
        rows=[_row(one) for one in measures],
        alpha=f"{100 * WEEKLY_ALPHA:g} %",
        level=shown_chance(look.level) if look else "",
        plots=_plots(traffic),
        days=_days_plot(traffic) if sum(bool(one.measures) for one in traffic.comparison.looks) > 1 else None,
    )


def shown_chance(probability: float) -> str:
    """A probability with two digits, comparable with the level that decides: ``0.00071``."""
    if probability < _LEAST_CHANCE:
        return f"below {np.format_float_positional(_LEAST_CHANCE)}"
    return str(np.format_float_positional(probability, precision=2, fractional=False, trim="-"))


def _row(measure: Measure) -> dict[str, str]:
    state = "drifted" if measure.drifted else "moved" if measure.moved else "steady"
    return {
        "name": measure.name,
        "distance": f"{measure.distance:.3f}",
        "bound": f"{measure.bound:.2f}",
        "chance": shown_chance(measure.corrected),
        "state": state,
        "style": {"drifted": "bad", "moved": "wait", "steady": ""}[state],
        "detail": measure.detail,
    }


def _plots(traffic: MonitoredTraffic) -> list[tuple[str, Markup]]:
    """The latest day against the reference, figure by figure; what one of them lacks is left out."""
    plots = []
    now, before = traffic.latest, traffic.reference
    for name, title in (("label", "Predicted labels"), ("script", "Scripts of the texts")):
        if now.table(name).any() and before.table(name).any():
            plots.append((title, _shares_plot(now.by_key(name), before.by_key(name), title)))
    turns = now.total("turns"), before.total("turns")
    if all(turns):
        shares = [
            {key: count / size for key, count in one.by_key("modality").items()}
            for one, size in zip((now, before), turns, strict=True)
        ]
        plots.append(("Turns with a modality", _bars(shares[0], shares[1], "Share of the turns with each modality")))
    for name, axis in _AXES.items():
        rows = now.table(name)[0], before.table(name)[0]
        if all(row.any() for row in rows):
            edges = now.figures.by_name[name].edges
            plots.append((WORDS[name].capitalize(), _histogram_plot(*rows, edges, axis)))
    for position, key in enumerate(now.figures.experts):
        rows = now.table("weight")[position], before.table("weight")[position]
        if all(row.any() for row in rows):
            edges = now.figures.by_name["weight"].edges
            title = f"Weight of {spoken(key)}"
            plots.append((title, _histogram_plot(*rows, edges, f"weight of {spoken(key)}, where it is present")))
    return plots


def _shares_plot(now: dict[str, int], before: dict[str, int], title: str) -> Markup:
    sizes = max(1, sum(now.values())), max(1, sum(before.values()))
    used = [key for key in now if now[key] or before[key]][:_MOST_BARS]
    return _bars({key: now[key] / sizes[0] for key in used}, {key: before[key] / sizes[1] for key in used}, title)


def _bars(now: dict[str, float], before: dict[str, float], title: str) -> Markup:
    """Shares of the traffic as bars, and those of the reference as marks."""
    figure, axes = one_plot(WIDTH, 1.1 + 0.34 * len(now))
    for row, (key, share) in enumerate(now.items()):
        axes.barh(row, 100 * share, height=0.6, color=ACCENT, alpha=0.75, label="traffic" if not row else None)
        mark = "reference" if not row else None
        axes.plot(100 * before[key], row, "|", color="black", ms=13, mew=1.8, label=mark)
    axes.set(ylim=(len(now) - 0.4, -0.6), yticks=range(len(now)), xlim=(0, None))
    axes.set_yticklabels([short(spoken(key)) for key in now])
    axes.set_xlabel("share, %")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure_svg(figure, f"{title}: traffic as bars, reference as marks")


def _histogram_plot(now: np.ndarray, before: np.ndarray, edges: np.ndarray, axis: str) -> Markup:
    """The histogram of the traffic as an area, that of the reference as a line; empty ends are cut off."""
    filled = np.flatnonzero(now + before)
    first, last = max(0, filled[0] - 1), min(len(now), filled[-1] + 2)
    width = max(1, (last - first) // 40)  # a line with hundreds of corners says no more
    last = min(len(now), first + -(-(last - first) // width) * width)
    starts = np.arange(first, last, width)
    bounds = np.append(edges[starts], edges[last])
    figure = new_figure(WIDTH, 2.3)
    axes = figure.add_subplot()
    quiet(axes, "y")
    for counts, filled_in, name in ((now, True, "traffic"), (before, False, "reference")):
        shares = 100 * np.add.reduceat(counts[:last], starts) / counts.sum()
        color = ACCENT if filled_in else "black"
        axes.stairs(shares, bounds, fill=filled_in, color=color, alpha=0.55 if filled_in else 1.0, lw=1.3, label=name)
    axes.set_xlabel(axis)
    axes.set_ylabel("share, %")
    axes.legend(frameon=False, fontsize=8)
    return figure_svg(figure, f"{axis}: traffic as an area, reference as a line")


def _days_plot(traffic: MonitoredTraffic) -> Markup:
    """Each figure's distance over the days, as a multiple of its bound."""
    looks = [look for look in traffic.comparison.looks if look.measures]
    names = list(dict.fromkeys((one.figure, one.key) for look in looks for one in look.measures))
    figure = new_figure(WIDTH, 3.0)
    axes = figure.add_subplot()
    quiet(axes, "y")
    ratios = {
        name: [
            next((one.distance / one.bound for one in look.measures if (one.figure, one.key) == name), np.nan)
            for look in looks
        ]
        for name in names
    }
    largest = sorted(names, key=lambda name: -np.nanmax(ratios[name]))[:3]
    days = [look.day for look in looks]
    colors = dict(zip(largest, ("#c06a14", "#3f76cf", "#22876a"), strict=False))
    for name in sorted(names, key=lambda name: name in colors):
        label = f"{WORDS[name[0]]} {spoken(name[1])}".strip() if name in colors else None
        axes.plot(
            days,
            ratios[name],
            "o-",
            ms=3.5,
            lw=1.4,
            color=colors.get(name, GREY),
            alpha=1 if name in colors else 0.45,
            label=label,
        )
    axes.axhline(1.0, color="black", lw=1, ls=(0, (4, 3)))
    step = max(1, len(days) // 6)
    axes.set(xticks=days[::step], ylabel="distance / bound", ylim=(0, None))
    axes.set_xticklabels([shown_day(day)[5:] for day in days[::step]])
    figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    return figure_svg(figure, "Distance of each figure from the reference over the days, as a multiple of its bound")
