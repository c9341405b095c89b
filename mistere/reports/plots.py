"""The plots of the reports: inline SVG in the page's text colour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.reports.html_page import figure_svg, new_figure
from mistere.runs.outcome import Estimate

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

WIDTH = 5.2  # inches; the text stays readable on a phone and in a column on a desktop
MIXTURE_COLOR = "black"
EXPERT_COLORS = {"speech": "#c06a14", "text": "#3f76cf", "cross_modal": "#22876a"}
ACCENT = "#4a80d6"
GREY = "#8a94a3"
_OTHER_COLORS = ("#a663c7", "#c75b7a", "#7a8b1f")
_MAX_CELLS_WITH_TEXT = 12


def expert_color(name: str, position: int = 0) -> str:
    """The colour of an expert on the page."""
    return EXPERT_COLORS.get(name, _OTHER_COLORS[position % len(_OTHER_COLORS)])


def spoken(name: str) -> str:
    """A name as prose: ``cross_modal`` becomes ``cross-modal``."""
    return name.replace("_", "-")


def short(text: str, length: int = 16) -> str:
    """A label, shortened to fit beside an axis, without characters that XML refuses."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def one_plot(width: float, height: float) -> tuple[Any, Axes]:
    """A figure, sized in inches, with one pair of axes in the style of :func:`quiet`."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    quiet(axes)
    return figure, axes


def quiet(axes: Axes, grid: str = "x") -> None:
    """Remove the frame; keep a thin grid along one axis."""
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(length=0)
    axes.grid(axis=grid, color=GREY, alpha=0.28, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def gate_plot(means: Mapping[str, float]) -> Markup:
    """The gate's mean weight for each expert."""
    figure, axes = one_plot(WIDTH, 0.55 + 0.36 * len(means))
    for row, (name, mean) in enumerate(means.items()):
        axes.barh(row, mean, height=0.58, color=expert_color(name, row))
        axes.text(mean + 0.015, row, f"{100 * mean:.0f} %", va="center")
    axes.set(xlim=(0, min(1.0, max(means.values()) + 0.15)), ylim=(len(means) - 0.5, -0.5), yticks=range(len(means)))
    axes.set_yticklabels([spoken(name) for name in means])
    axes.set_xlabel("mean gate weight over the test utterances")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure_svg(figure, "Mean gate weight of each expert")


def classes_plot(scores: Mapping[str, Estimate], support: Mapping[str, float]) -> Markup:
    """F1 of each class with its interval and its number of test utterances."""
    figure, axes = one_plot(WIDTH, 0.6 + 0.3 * len(scores))
    transform = axes.get_yaxis_transform()
    for row, (label, score) in enumerate(scores.items()):
        axes.barh(row, score.value, height=0.62, color=ACCENT, alpha=0.75)
        if score.low is not None and score.high is not None:
            axes.hlines(row, score.low, score.high, color="black", linewidth=1.3)
        axes.text(1.03, row, f"{score.value:.2f}", transform=transform, va="center")
        axes.text(1.17, row, f"{support.get(label, 0):.0f}", transform=transform, va="center")
    axes.text(1.03, -0.9, "F1", transform=transform, va="center", fontsize=8)
    axes.text(1.17, -0.9, "utterances", transform=transform, va="center", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(scores) - 0.4, -0.6), yticks=range(len(scores)))
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_yticklabels([short(label) for label in scores])
    axes.set_xlabel("F1")
    return figure_svg(figure, "F1 of each emotion with its interval, and its number of test utterances")


def confusion_plot(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """Confusion matrix: counts ``[C, C]`` with true classes as rows; the shade is the share of the row."""
    from matplotlib.colors import to_rgba

    matrix = np.asarray(counts, dtype=np.float64)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = len(labels)
    side = min(WIDTH, 1.7 + 0.46 * size)
    figure, axes = one_plot(WIDTH, side * 0.82)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    colors = np.empty((size, size, 4))
    colors[...] = to_rgba(ACCENT)
    colors[..., 3] = 0.04 + 0.72 * share
    axes.pcolormesh(np.arange(size + 1) - 0.5, np.arange(size + 1) - 0.5, colors)
    if size <= _MAX_CELLS_WITH_TEXT:
        for row, column in itertools.product(range(size), range(size)):
            weight = "bold" if row == column else "normal"
            axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", fontsize=8, weight=weight)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xticks=range(size), yticks=range(size))
    names = [short(label, 12) for label in labels]
    axes.set_xticklabels(
        names, rotation=40 if size > 3 else 0, ha="right" if size > 3 else "center", rotation_mode="anchor"
    )
    axes.set_yticklabels(names)
    axes.set(xlabel="predicted", ylabel="true")
    return figure_svg(figure, "Confusion matrix: rows are true emotions, columns the predicted ones")


def history_plot(history: Sequence[Mapping[str, float]], color: str) -> Markup | None:
    """Loss and dev weighted F1 over the epochs, with a dot at the best epoch; None without any values."""
    from matplotlib.ticker import MaxNLocator

    panels = [("loss", ("loss", "dev_loss")), ("dev weighted F1", ("dev_weighted_f1",))]
    drawn = [(title, [name for name in names if any(name in p for p in history)]) for title, names in panels]
    drawn = [(title, names) for title, names in drawn if names]
    if not drawn:
        return None
    figure = new_figure(WIDTH, 1.95)
    for position, (title, names) in enumerate(drawn):
        axes = figure.add_subplot(1, len(drawn), position + 1)
        quiet(axes, "y")
        for name in names:
            points = [(p.get("epoch", i + 1), p[name]) for i, p in enumerate(history) if name in p]
            epochs, values = zip(*points, strict=True)
            style = "--" if name == "dev_loss" else "-"
            axes.plot(
                epochs,
                values,
                style,
                color=color,
                linewidth=1.7,
                marker="o" if len(points) < 4 else "",
                label=spoken(name),
            )
            if name == "dev_weighted_f1":
                best = int(np.argmax(values))
                axes.plot(epochs[best], values[best], "o", color=color, markersize=6)
                axes.annotate(
                    f"{values[best]:.3f}", (epochs[best], values[best]), (0, 6), textcoords="offset points", ha="center"
                )
                axes.margins(y=0.22)
        if len(names) > 1:
            axes.legend(["train", "dev"], frameon=False, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure_svg(figure, "Loss and dev weighted F1 over the epochs")
