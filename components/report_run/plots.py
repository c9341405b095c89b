"""The report's pictures: inline SVG whose text and lines follow the page's colour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.outcome import Estimate
from components.core.page import figure_svg, new_figure
from components.report_run.material import ExampleDialogue

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

WIDTH = 5.2  # inches: the type stays readable at the width of a phone and of a desktop's column
MIXTURE_COLOR = "black"
EXPERT_COLORS = {"speech": "#c06a14", "text": "#3f76cf", "cross_modal": "#22876a"}
_OTHER_COLORS = ("#a663c7", "#c75b7a", "#7a8b1f")
_ACCENT = "#4a80d6"
_GREY = "#8a94a3"
_RIGHT, _WRONG = "#2c9c58", "#d9534a"
_ON_COLOR = "#fffffe"  # white itself is taken for the page's ground
_MAX_CELLS_WITH_TEXT = 12
_LEGIBLE_WEIGHT = 0.14


def expert_color(name: str, position: int = 0) -> str:
    """The colour that stands for an expert on the whole page."""
    return EXPERT_COLORS.get(name, _OTHER_COLORS[position % len(_OTHER_COLORS)])


def spoken(name: str) -> str:
    """A name as prose: ``cross_modal`` becomes ``cross-modal``."""
    return name.replace("_", "-")


def short(text: str, length: int = 16) -> str:
    """A label cut to what fits beside an axis, without characters that XML refuses."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _axes(width: float, height: float) -> tuple[Any, Axes]:
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    quiet(axes)
    return figure, axes


def quiet(axes: Axes, grid: str = "x") -> None:
    """Take away the frame and leave a thin grid along one axis."""
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    axes.tick_params(length=0)
    axes.grid(axis=grid, color=_GREY, alpha=0.28, linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def experts_plot(
    mixture: Estimate, experts: Mapping[str, Estimate], majority: float | None, champion: Estimate | None
) -> Markup:
    """Weighted F1 of the mixture, of each expert alone and of the champion before, as dots with intervals."""
    rows = [("mixture", mixture, MIXTURE_COLOR)]
    for place, (name, value) in enumerate(experts.items()):
        rows.append((f"{spoken(name)} alone", value, expert_color(name, place)))
    if champion is not None:
        rows.append(("champion before", champion, _GREY))
    figure, axes = _axes(WIDTH, 0.62 + 0.36 * len(rows))
    for place, (name, estimate, color) in enumerate(rows):
        first = name == "mixture"
        if estimate.low is not None and estimate.high is not None:
            axes.hlines(place, estimate.low, estimate.high, color=color, linewidth=3.2 if first else 2.2, alpha=0.65)
        axes.plot(estimate.value, place, "o", color=color, markersize=9 if first else 6.5)
        axes.text(1.02, place, f"{estimate.value:.3f}", transform=axes.get_yaxis_transform(), va="center")
    bounds = [bound for _, e, _ in rows for bound in (e.value, e.low, e.high) if bound is not None]
    if majority is not None:
        axes.axvline(majority, color=_GREY, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            f"always the most frequent emotion: {majority:.3f}",
            (majority, 1), (3, 3), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8,
        )  # fmt: skip
        bounds.append(majority)
    low, high = max(0.0, min(bounds) - 0.04), min(1.0, max(bounds) + 0.04)
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.6), yticks=range(len(rows)))
    axes.set_yticklabels([name for name, _, _ in rows])
    axes.set_xlabel("weighted F1 on the test split")
    return figure_svg(
        figure, f"Weighted F1 of the mixture, {mixture.value:.3f}, beside each expert alone, with intervals"
    )


def gate_plot(means: Mapping[str, float]) -> Markup:
    """The gate's mean weight for each expert."""
    figure, axes = _axes(WIDTH, 0.55 + 0.36 * len(means))
    for place, (name, mean) in enumerate(means.items()):
        axes.barh(place, mean, height=0.58, color=expert_color(name, place))
        axes.text(mean + 0.015, place, f"{100 * mean:.0f} %", va="center")
    axes.set(xlim=(0, min(1.0, max(means.values()) + 0.15)), ylim=(len(means) - 0.5, -0.5), yticks=range(len(means)))
    axes.set_yticklabels([spoken(name) for name in means])
    axes.set_xlabel("mean gate weight over the test utterances")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return figure_svg(figure, "Mean gate weight of each expert")


def classes_plot(scores: Mapping[str, float], support: Mapping[str, float]) -> Markup:
    """F1 of each class, with how many test utterances it has."""
    figure, axes = _axes(WIDTH, 0.55 + 0.3 * len(scores))
    for place, (label, score) in enumerate(scores.items()):
        axes.barh(place, score, height=0.62, color=_ACCENT)
        axes.text(score + 0.012, place, f"{score:.2f}", va="center")
        axes.text(1.03, place, f"{support.get(label, 0):.0f}", transform=axes.get_yaxis_transform(), va="center")
    axes.text(1.03, -0.85, "utterances", transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=8)
    axes.set(xlim=(0, 1.1), ylim=(len(scores) - 0.4, -0.6), yticks=range(len(scores)))
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_yticklabels([short(label) for label in scores])
    axes.set_xlabel("F1")
    return figure_svg(figure, "F1 of each emotion and its number of test utterances")


def confusion_plot(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Markup:
    """Counts ``[C, C]``, rows true and columns predicted; the shade is the share of the row."""
    from matplotlib.colors import to_rgba

    matrix = np.asarray(counts, dtype=np.float64)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    size = len(labels)
    side = min(WIDTH, 1.7 + 0.46 * size)
    figure, axes = _axes(WIDTH, side * 0.82)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    colors = np.empty((size, size, 4))
    colors[...] = to_rgba(_ACCENT)
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


def dialogue_plot(dialogue: ExampleDialogue, experts: Sequence[str], everything: str) -> Markup:
    """Gate weights turn by turn, downwards in time.

    Args:
        dialogue: the turns.
        experts: their names, in the weights' order.
        everything: how a turn that lacks no modality spells its modalities.
    """
    turns = len(dialogue.turns)
    figure, axes = _axes(WIDTH, 0.5 + 0.27 * turns)
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    start = np.zeros(turns)
    for position, name in enumerate(experts):
        weights = dialogue.weights[:, position]
        axes.barh(range(turns), weights, left=start, height=0.82, color=expert_color(name, position))
        for turn, (left, weight) in enumerate(zip(start.tolist(), weights.tolist(), strict=True)):
            if weight >= _LEGIBLE_WEIGHT:
                middle, text = left + weight / 2, f"{100 * weight:.0f}"
                axes.text(middle, turn, text, ha="center", va="center", fontsize=7.5, color=_ON_COLOR)
        start = start + weights
    transform = axes.get_yaxis_transform()
    for place, (true, predicted) in enumerate(zip(dialogue.true, dialogue.predicted, strict=True)):
        color = _RIGHT if true == predicted else _WRONG
        axes.text(1.02, place, short(predicted, 12), transform=transform, va="center", color=color)
    axes.text(1.02, -0.95, "predicted", transform=transform, va="center", fontsize=8)
    axes.text(-0.02, -0.95, "turn, true emotion", transform=transform, va="center", ha="right", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(turns - 0.5, -0.5), xticks=[], yticks=range(turns))
    names = [f"{turn + 1}  {short(label, 12)}" for turn, label in zip(dialogue.turns, dialogue.true, strict=True)]
    lacking = [modalities != everything for modalities in dialogue.modalities]
    axes.set_yticklabels([f"{name} *" if lacks else name for name, lacks in zip(names, lacking, strict=True)])
    return figure_svg(figure, f"Gate weights turn by turn in test dialogue {dialogue.name}")


def history_plot(history: Sequence[Mapping[str, float]], color: str) -> Markup | None:
    """Loss and dev weighted F1 over the epochs, the best epoch marked; None where there is nothing to draw."""
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
