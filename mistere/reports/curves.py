"""Plots of a mixture: calibration, missing modalities, and the training curves of several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mistere.metrics.calibration import Reliability
from mistere.metrics.missing_curve import CurvePoint
from mistere.reports.html_page import figure_svg, new_figure
from mistere.reports.plots import ACCENT, WIDTH, expert_color, quiet, short, spoken

if TYPE_CHECKING:
    from markupsafe import Markup

_SEED_COLORS = ("#4a80d6", "#c06a14", "#22876a", "#a663c7", "#c75b7a", "#7a8b1f", "#8a94a3")
_MARKERS = ("o", "s", "^", "D")
_STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def missing_modality_plot(curves: Mapping[str, Sequence[CurvePoint]], *, legend: bool = True) -> Markup:
    """Weighted F1 over the removed share of a modality: a line per modality and model, with intervals as bands.

    Args:
        curves: by the name of the model; the name of a single model may be empty.
        legend: whether the plot has a legend of its own.
    """
    figure = new_figure(WIDTH, 2.6 + (0.7 if legend and len(curves) > 1 else 0))
    axes = figure.add_subplot()
    quiet(axes, "y")
    for style, (title, points) in zip(_STYLES, curves.items(), strict=False):
        for position, modality in enumerate(dict.fromkeys(point.modality for point in points)):
            selected = [point for point in points if point.modality == modality]
            shares = [100 * point.share for point in selected]
            color = expert_color(modality, position)
            axes.plot(
                shares,
                [point.weighted_f1.value for point in selected],
                marker=_MARKERS[position % len(_MARKERS)],
                ls=style,
                color=color,
                ms=3.5,
                markerfacecolor=color if style == "-" else "#ffffff",
                label=f"{spoken(modality)} removed{', ' + short(title, 32) if title else ''}",
            )  # type: ignore[arg-type]
            if len(curves) == 1:
                lows, highs = [p.weighted_f1.low for p in selected], [p.weighted_f1.high for p in selected]
                axes.fill_between(shares, lows, highs, color=color, alpha=0.14, linewidth=0)
    axes.set(
        xticks=[0, 25, 50, 75, 100],
        ylabel="weighted F1",
        xlabel="share of the test utterances from which it is removed",
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    handle = 3.6  # long enough to show the dashes
    if legend and len(curves) > 1:
        figure.legend(loc="outside lower center", frameon=False, fontsize=8, handlelength=handle)
    elif legend:
        axes.legend(frameon=False, fontsize=8, handlelength=handle)
    return figure_svg(figure, "Weighted F1 over the share of a modality that is removed")


def reliability_plot(models: Mapping[str, Reliability]) -> Markup:
    """Share of correct answers over confidence; on the diagonal, probabilities are calibrated.

    Args:
        models: by the name of the model; the name of a single model may be empty.
    """
    figure = new_figure(WIDTH, 2.6)
    axes = figure.add_subplot()
    quiet(axes, "y")
    axes.plot([0, 1], [0, 1], ls=(0, (4, 3)), color="#8a94a3", lw=1.2)  # type: ignore[arg-type]
    for bins, style in zip(models.values(), _STYLES, strict=False):
        filled = bins.counts > 0
        confidence, accuracy, counts = bins.confidence[filled], bins.accuracy[filled], bins.counts[filled]
        axes.plot(confidence, accuracy, color=ACCENT, lw=1.4, ls=style)  # type: ignore[arg-type]
        face = ACCENT if style == "-" else "#ffffff"
        sizes = 14 + 90 * counts / max(1, counts.max(initial=1))
        axes.scatter(confidence, accuracy, s=sizes, color=face, edgecolors=ACCENT, linewidths=1.2, zorder=3)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.03), xlabel="confidence", ylabel="share of correct answers")
    return figure_svg(figure, "Share of correct answers over the confidence of the prediction")


def seeds_plot(histories: Mapping[int, Sequence[Mapping[str, float]]]) -> Markup:
    """Loss and dev weighted F1 over the epochs: a line per seed, with a dot at the selected epoch."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(2 * WIDTH, 2.5)
    for position, (key, title) in enumerate((("loss", "training loss"), ("dev_weighted_f1", "dev weighted F1"))):
        axes = figure.add_subplot(1, 2, position + 1)
        quiet(axes, "y")
        for number, (seed, history) in enumerate(histories.items()):
            color = _SEED_COLORS[number % len(_SEED_COLORS)]
            epochs, values = [entry["epoch"] for entry in history], [entry[key] for entry in history]
            style = _STYLES[number % len(_STYLES)]
            axes.plot(
                epochs,
                values,
                color=color,
                ls=style,
                lw=1.4,
                marker="o" if len(epochs) < 4 else "",
                label=f"seed {seed}",
            )  # type: ignore[arg-type]
            if key == "dev_weighted_f1":
                best = max(range(len(values)), key=values.__getitem__)
                axes.plot(epochs[best], values[best], "o", color=color, ms=6)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if position and 1 < len(histories) <= 10:
            axes.legend(frameon=False, fontsize=8)
    return figure_svg(figure, "Training loss and dev weighted F1 over the epochs of each seed")
