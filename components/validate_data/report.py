"""The validation report: one offline page for the owner of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate_data.wording import EXAMPLES, brief
from mistere.common.counting import percent
from mistere.common.splits import SPLITS
from mistere.data.profile import EDGES
from mistere.reports.html_page import figure_svg, new_figure, render_page

if TYPE_CHECKING:
    import pandas as pd
    from markupsafe import Markup

    from components.validate_data.verdict import Validation
    from mistere.data.profile import Profile

_COLOURS = {"train": "#4c8bd6", "dev": "#d9903d", "test": "#3fa37a"}
_DASHES = {"train": "-", "dev": (0, (5, 1.5)), "test": (0, (1.5, 1))}
_GRID = "#8a93a0"


def render(validation: Validation, name: str, digest: str) -> str:
    """The page as HTML; deterministic.

    Args:
        validation: the validation.
        name: the dataset's name.
        digest: its DVC digest; empty if it has none.
    """
    facts = validation.facts
    table = facts.utterances
    audible = table[table["seconds"].notna()]
    layers: dict[str, list[Any]] = {}
    for outcome in validation.outcomes:
        layers.setdefault(outcome.rule.layer, []).append(outcome)
    return render_page(
        Path(__file__).parent / "report.html",
        name=name,
        digest=digest,
        verdict=validation.verdict,
        findings=_findings(validation),
        quarantine=validation.quarantine.sentence if validation.quarantine else "",
        refused=validation.refused,
        with_quarantine=validation.with_quarantine,
        tolerated=validation.tolerated,
        tiles=_tiles(validation),
        layers=layers,
        counts=_label_counts(table, validation.labels),
        context=_context_counts(table),
        label_plot=_label_plot(table, validation.labels) if table["label"].notna().any() else "",
        duration_plot=_histogram(audible, "seconds", "seconds", "Durations of the recordings per split"),
        level_plot=_histogram(audible, "rms_dbfs", "level in dBFS (RMS)", "Levels of the recordings per split"),
        text_plot=_histogram(
            table[table["text_length"] > 0], "text_length", "characters", "Lengths of the transcripts per split"
        ),
        drifts=validation.drifts,
        drift_plots=_drift_plots(validation.profile, validation.before) if validation.before else [],
        splits=_splits(validation),
    )


def _findings(validation: Validation) -> list[dict[str, Any]]:
    """Expectations that are not met, blocking findings first."""
    findings = [outcome for outcome in validation.outcomes if outcome.status in {"fail", "warn"}]
    return [
        {
            "kind": "warn" if outcome.status == "warn" else "aside" if validation.quarantine else "block",
            "layer": outcome.rule.layer,
            "sentence": outcome.sentence,
            "examples": outcome.examples if outcome.unexpected > EXAMPLES else (),
            "more": outcome.unexpected - len(outcome.examples),
        }
        for outcome in sorted(findings, key=lambda outcome: outcome.status == "warn")
    ]


def _tiles(validation: Validation) -> list[tuple[str, str]]:
    facts = validation.facts
    speakers = len(facts.speakers)
    return [
        (f"{len(facts.utterances):,}", "utterances"),
        (f"{len(facts.dialogues):,}", "dialogues"),
        (f"{speakers:,}" if speakers else "–", "speakers" if speakers else "speakers not named"),
        _audio(validation.audio_seconds),
    ]


def _audio(seconds: float) -> tuple[str, str]:
    """The duration of all recordings in a unit of its size."""
    if not seconds:
        return "–", "no audio"
    return (
        (f"{seconds / 3600:.2f}", "hours of audio") if seconds >= 3600 else (f"{seconds / 60:.1f}", "minutes of audio")
    )


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
    return percent(part / whole) if whole else "–"


def _label_counts(table: pd.DataFrame, labels: Sequence[str]) -> list[tuple[str, bool, list[int]]]:
    """Label, whether it is declared, and its utterances in each split."""
    counts = table.groupby(["label", "split"]).size().to_dict() if len(table) else {}
    others = sorted(set(table["label"].dropna()) - set(labels))[:20]
    return [
        (brief(label), label in labels, [int(counts.get((label, split), 0)) for split in SPLITS])
        for label in [*labels, *others]
    ]


def _context_counts(table: pd.DataFrame) -> list[int]:
    """The turns of each split that have no label; empty if there are none."""
    context = table.loc[table["label"].isna(), "split"].value_counts().to_dict()
    return [int(context.get(split, 0)) for split in SPLITS] if context else []


def _label_plot(table: pd.DataFrame, labels: Sequence[str]) -> Markup:
    counts = _label_counts(table, labels)
    figure = new_figure(5.6, 1.0 + 0.4 * len(counts))
    axes = figure.add_subplot()
    for index, split in enumerate(SPLITS):
        total = max(1, sum(row[2][index] for row in counts))
        positions = [row + (index - 1) * 0.26 for row in range(len(counts))]
        shares = [100 * row[2][index] / total for row in counts]
        axes.barh(positions, shares, height=0.24, color=_COLOURS[split], label=split)
    axes.set_yticks(range(len(counts)), [row[0][:24] for row in counts], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("% of the split's utterances")
    _style(axes, "x")
    return figure_svg(figure, "Share of each label in train, dev and test")


def _histogram(rows: pd.DataFrame, column: str, axis: str, label: str) -> Markup | str:
    """Share of each split's recordings over 30 bins; the longest 0.5 % are in the last bin."""
    import numpy as np

    values = rows[column]
    if values.empty:
        return ""
    low, high = float(values.min()), float(values.quantile(0.995))
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    figure = new_figure(5.2, 2.7)
    axes = figure.add_subplot()
    edges = np.linspace(low, high, 31)
    for split in SPLITS:
        own = rows.loc[rows["split"] == split, column].clip(low, high)
        if len(own):
            share = 100 * np.histogram(own, edges)[0] / len(own)
            axes.stairs(share, edges, color=_COLOURS[split], ls=_DASHES[split], label=split, linewidth=1.6)
    axes.set_xlabel(axis)
    axes.set_ylabel("% of utterances")
    axes.set_ylim(bottom=0)
    _style(axes, "y")
    return figure_svg(figure, label)


_MEASURED = {
    "seconds": ("durations", "seconds"),
    "text_length": ("transcript lengths", "characters"),
    "rms_dbfs": ("levels", "level in dBFS (RMS)"),
}


def _drift_plots(now: Profile, before: Profile) -> list[tuple[str, Markup]]:
    """Both datasets in one plot each: labels, and every histogram that both have."""
    plots = [("labels", _paired_bars(now, before))]
    for column, (name, axis) in _MEASURED.items():
        if column in now.histograms and column in before.histograms:
            plots.append((name, _paired_histograms(now, before, column, axis, name)))
    return plots


_NOW, _BEFORE = "#4c8bd6", "#b06fc4"


def _paired_bars(now: Profile, before: Profile) -> Markup:
    labels = [*now.labels, *(label for label in before.labels if label not in now.labels)]
    figure = new_figure(5.2, 1.0 + 0.32 * len(labels))
    axes = figure.add_subplot()
    for offset, profile, colour, name in ((-0.2, now, _NOW, "this dataset"), (0.2, before, _BEFORE, "the champion's")):
        total = max(1, sum(profile.labels.values()))
        shares = [100 * profile.labels.get(label, 0) / total for label in labels]
        axes.barh([row + offset for row in range(len(labels))], shares, height=0.36, color=colour, label=name)
    axes.set_yticks(range(len(labels)), [brief(label)[:24] for label in labels], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("% of the utterances")
    _style(axes, "x")
    return figure_svg(figure, "Shares of the labels, in this dataset and in the champion's")


def _paired_histograms(now: Profile, before: Profile, column: str, axis: str, name: str) -> Markup:
    import numpy as np

    low, high, bins = EDGES[column]
    group = max(1, bins // 40)
    edges = np.linspace(low, high, bins + 1)[::group]
    figure = new_figure(5.2, 2.7)
    axes = figure.add_subplot()
    used = [0.0]
    for profile, colour, dashes, label in (
        (now, _NOW, "-", "this dataset"),
        (before, _BEFORE, (0, (5, 1.5)), "the champion's"),
    ):
        counts = np.asarray(profile.histograms[column], float).reshape(-1, group).sum(1)
        axes.stairs(100 * counts / counts.sum(), edges, color=colour, ls=dashes, label=label, linewidth=1.6)
        used += [edge for edge, count in zip(edges[1:], counts, strict=True) if count]
    first = min(edges[:-1][np.asarray(now.histograms[column]).reshape(-1, group).sum(1) > 0], default=low)
    axes.set_xlim(min(first, low if low >= 0 else first), max(used) if max(used) > first else high)
    axes.set_xlabel(axis)
    axes.set_ylabel("% of utterances")
    axes.set_ylim(bottom=0)
    _style(axes, "y")
    return figure_svg(figure, f"The {name}, in this dataset and in the champion's")


def _style(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_alpha(0)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=_GRID, alpha=0.35, linewidth=0.6)
    axes.figure.legend(loc="outside upper right", ncols=3, frameon=False)
