"""The page of ``mistere shadow report``: the verdict, agreement by label, latency, confidence, and the dialogues that differ most."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mistere.common.names import shown
from mistere.reports.html_page import figure_svg, new_figure, render_page
from mistere.reports.interval_plots import IntervalRow, interval_plot
from mistere.reports.plots import ACCENT, GREY, WIDTH, quiet, spoken
from mistere.runs.outcome import Estimate
from mistere.runs.shadow_comparison import ShadowComparison
from mistere.runs.traffic_monitor import shown_hour
from mistere.serving.shadow.figures import SECONDS_EDGES, UNIT_BINS
from mistere.serving.shadow.summary import Share, Summary, shown_share

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATE: Final = Path(__file__).with_name("page.html")
_MOST_LABELS: Final = 12
_LINES: Final = (("black", "-"), (ACCENT, (0, (4, 1.5))))
"""Colour and dashes of the deployed version and of the shadow."""
_STYLES: Final = {"alike": "good", "undecided": "wait", "different": "bad"}
_MEANINGS: Final = {
    "compared": "answered and compared",
    "full": "dropped, because the queue was full",
    "unreachable": "no connection to the shadow",
    "slow": "no answer in time",
    "busy": "the shadow was too busy (429 or 503)",
    "refused": "the shadow refused the request (4xx)",
    "failed": "the shadow failed (5xx)",
    "malformed": "the answer was not a prediction",
    "unsendable": "the recording is no longer held, or the copy is larger than the shadow takes",
}


def render_shadow(comparison: ShadowComparison) -> str:
    """The page as HTML."""
    summary = comparison.summary
    counts = summary.counts
    times, confidence = summary.latencies(), summary.confidences()
    return render_page(
        _TEMPLATE,
        comparison=comparison,
        summary=summary,
        style=_STYLES[summary.verdict],
        tiles=[
            (_percent(summary.agreement), "of the turns have the same label"),
            (f"{summary.agreement.of:,}", "compared turns"),
            (f"{summary.dialogues:,}", "compared dialogues"),
            (_percent(summary.errors), "of the copies ended in an error"),
        ],
        rows=[(spoken(label), f"{share.of:,}", shown_share(share)) for label, share in summary.by_label.items()],
        agreement=_agreement_plot(summary),
        pairs=_pairs(summary),
        sides=[
            (name, _shown(confidence[side], "{:.3f}"), [_shown(time, "{:,.0f} ms") for time in times[side].values()])
            for name, side in (("deployed", "front"), ("shadow", "shadow"))
        ],
        latency=_latency_plot(counts.seconds) if counts.seconds.any() else None,
        confidence=_unit_plot(counts.confidence, ("deployed", "shadow"), "probability of the predicted label"),
        distance=_unit_plot(counts.distance[None], ("turns",), "total variation distance of the probabilities"),
        hours=_hours_plot(comparison) if len(comparison.hours) > 1 else None,
        outcomes=[(f"{count:,}", _MEANINGS[name]) for name, count in counts.outcomes.items() if count],
        dialogues=[(shown(one.identity), one.turns, one.differing, f"{one.distance:.2f}") for one in counts.dialogues],
    )


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f} %" if share.of else "none"


def _shown(value: float | None, form: str) -> str:
    return "none" if value is None else form.format(value)


def _agreement_plot(summary: Summary) -> Markup | None:
    rows = [IntervalRow("all", [_estimate(summary.agreement)], "black", strong=True)]
    rows += [IntervalRow(spoken(label), [_estimate(share)], ACCENT) for label, share in summary.by_label.items()]
    if not summary.agreement.of:
        return None
    line = (summary.min_agreement, f"least agreement {summary.min_agreement:.2f}")
    return interval_plot(rows, "share of turns with the same label", "Agreement by label", line)


def _estimate(share: Share) -> Estimate:
    return Estimate(value=share.value, low=share.low, high=share.high)


def _pairs(summary: Summary) -> dict[str, Any] | None:
    """The turns by both labels as a table; None for many labels, of which nobody reads one."""
    counts = summary.counts
    if len(counts.labels) > _MOST_LABELS or len(counts.shadow_labels) > _MOST_LABELS or not counts.pairs.any():
        return None
    rows = [
        (spoken(label), [(count, label == other) for count, other in zip(row, counts.shadow_labels, strict=True)])
        for label, row in zip(counts.labels, counts.pairs.tolist(), strict=True)
    ]
    return {"columns": [spoken(label) for label in counts.shadow_labels], "rows": rows}


def _latency_plot(seconds: np.ndarray) -> Markup:
    from matplotlib.ticker import LogLocator, NullLocator

    figure = new_figure(WIDTH, 2.3)
    axes = figure.add_subplot()
    quiet(axes, "y")
    filled = np.flatnonzero(seconds.sum(0))
    first, last = filled[0], filled[-1] + 1
    for row, name, (color, style) in zip(seconds, ("deployed", "shadow"), _LINES, strict=True):
        shares = 100 * row[first:last] / max(1, row.sum())
        axes.stairs(shares, 1000 * SECONDS_EDGES[first : last + 1], color=color, ls=style, lw=1.4, label=name)
    axes.set_xscale("log")
    # The formatter of a logarithmic axis writes formulas, which new_figure shows as they are.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("share, %")
    axes.legend(frameon=False, fontsize=8)
    return figure_svg(figure, "Latency of the deployed version and of the shadow")


def _unit_plot(rows: np.ndarray, names: tuple[str, ...], axis: str) -> Markup | None:
    if not rows.any():
        return None
    figure = new_figure(WIDTH, 2.3)
    axes = figure.add_subplot()
    quiet(axes, "y")
    edges = np.linspace(0, 1, UNIT_BINS + 1)
    for row, name, (color, style) in zip(rows, names, _LINES, strict=False):
        axes.stairs(100 * row / max(1, row.sum()), edges, color=color, ls=style, lw=1.4, label=name)
    axes.set_xlabel(axis)
    axes.set_ylabel("share, %")
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=8)
    return figure_svg(figure, axis)


def _hours_plot(comparison: ShadowComparison) -> Markup:
    figure = new_figure(WIDTH, 2.3)
    axes = figure.add_subplot()
    quiet(axes, "y")
    shares = {hour: Summary(counts).agreement for hour, counts in comparison.hours.items()}
    known = {hour: share for hour, share in shares.items() if share.of}
    hours = list(known)
    axes.vlines(hours, [one.low for one in known.values()], [one.high for one in known.values()], color=GREY, lw=2)
    axes.plot(hours, [one.value for one in known.values()], "o", color=ACCENT, ms=4)
    step = max(1, len(hours) // 5)
    axes.set(ylim=(0, 1.02), ylabel="same label", xticks=hours[::step])
    axes.set_xticklabels([shown_hour(hour)[5:] for hour in hours[::step]], fontsize=8)
    return figure_svg(figure, "Agreement by hour, with intervals")
