"""The validation report: one offline page for the owner of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.dataset import SPLITS
from components.core.page import figure_svg, new_figure, render_page
from components.validate_data.wording import brief

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

    from components.validate_data.run import Validation

_COLOURS = {"train": "#4c8bd6", "dev": "#d9903d", "test": "#3fa37a"}
_GRID = "#8a93a0"


def render(validation: Validation, name: str, digest: str) -> str:
    """The page as HTML; the same validation gives the same text.

    Args:
        validation: what was found.
        name: the dataset's name.
        digest: its DVC digest; empty where it has none.
    """
    facts = validation.facts
    table = facts.utterances
    heard = table[table["seconds"].notna()]
    layers: dict[str, list[Any]] = {}
    for outcome in validation.outcomes:
        layers.setdefault(outcome.rule.layer, []).append(outcome)
    return render_page(
        Path(__file__).parent / "report.html",
        name=name,
        digest=digest,
        verdict=validation.verdict,
        failed=validation.failed,
        tiles=_tiles(validation),
        layers=layers,
        counts=_label_counts(table, validation.labels),
        label_plot=_label_plot(table, validation.labels) if table["label"].notna().any() else "",
        duration_plot=_histogram(heard, "seconds", "seconds", "Durations of the recordings per split"),
        level_plot=_histogram(heard, "rms_dbfs", "level in dBFS (RMS)", "Levels of the recordings per split"),
        splits=_splits(validation),
    )


def _tiles(validation: Validation) -> list[tuple[str, str]]:
    facts = validation.facts
    speakers = len(facts.speakers)
    hours = validation.audio_seconds / 3600
    return [
        (f"{len(facts.utterances):,}", "utterances"),
        (f"{len(facts.dialogues):,}", "dialogues"),
        (f"{speakers:,}" if speakers else "–", "speakers" if speakers else "speakers not named"),
        (f"{hours:.2f}" if hours else "–", "hours of audio" if hours else "no audio"),
    ]


def _splits(validation: Validation) -> list[dict[str, str]]:
    facts = validation.facts
    rows = []
    for split in SPLITS:
        own = facts.utterances[facts.utterances["split"] == split]
        turns = facts.dialogues.loc[facts.dialogues["split"] == split, "utterances"]
        seconds = own["seconds"].dropna()
        rows.append(
            {
                "split": split,
                "utterances": f"{len(own):,}",
                "dialogues": f"{len(turns):,}",
                "turns": f"{turns.median():g}" if len(turns) else "–",
                "speakers": f"{own['speaker'].nunique():,}" if own["speaker"].notna().any() else "–",
                "text": _percent(int((own["text_length"] > 0).sum()), len(own)),
                "audio": _percent(int(own["has_audio"].sum()), len(own)),
                "seconds": f"{seconds.median():.1f} s" if len(seconds) else "–",
            }
        )
    return rows


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _label_counts(table: pd.DataFrame, labels: Sequence[str]) -> list[tuple[str, bool, list[int]]]:
    """Label, whether it is declared, and its utterances in each split."""
    counts = table.groupby(["label", "split"]).size().to_dict() if len(table) else {}
    others = sorted(set(table["label"].dropna()) - set(labels))[:20]
    return [
        (brief(label), label in labels, [int(counts.get((label, split), 0)) for split in SPLITS])
        for label in [*labels, *others]
    ]


def _label_plot(table: pd.DataFrame, labels: Sequence[str]) -> Markup:
    counts = _label_counts(table, labels)
    figure = new_figure(5.6, 1.0 + 0.4 * len(counts))
    axes = figure.add_subplot()
    for index, split in enumerate(SPLITS):
        total = max(1, sum(row[2][index] for row in counts))
        places = [row + (index - 1) * 0.26 for row in range(len(counts))]
        shares = [100 * row[2][index] / total for row in counts]
        axes.barh(places, shares, height=0.24, color=_COLOURS[split], label=split)
    axes.set_yticks(range(len(counts)), [row[0][:24] for row in counts], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("% of the split's utterances")
    _dress(axes, "x")
    return figure_svg(figure, "Share of each label in train, dev and test")


def _histogram(heard: pd.DataFrame, column: str, axis: str, label: str) -> Markup | str:
    """Share of each split's recordings over 30 bins; the longest half percent stands in the last one."""
    import numpy as np

    values = heard[column]
    if values.empty:
        return ""
    low, high = float(values.min()), float(values.quantile(0.995))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    figure = new_figure(5.2, 2.7)
    axes = figure.add_subplot()
    edges = np.linspace(low, high, 31)
    for split in SPLITS:
        own = heard.loc[heard["split"] == split, column].clip(low, high)
        if len(own):
            share = 100 * np.histogram(own, edges)[0] / len(own)
            axes.stairs(share, edges, color=_COLOURS[split], label=split, linewidth=1.6)
    axes.set_xlabel(axis)
    axes.set_ylabel("% of recordings")
    axes.set_ylim(bottom=0)
    _dress(axes, "y")
    return figure_svg(figure, label)


def _dress(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=_GRID, alpha=0.35, linewidth=0.6)
    axes.figure.legend(loc="outside upper right", ncols=3, frameon=False)
