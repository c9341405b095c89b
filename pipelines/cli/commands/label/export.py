"""``mistere label export``: chooses dialogues and writes the folder of an export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mistere.common.counting import counted
from mistere.labelling.export import ExportOptions, export_tasks
from mistere.labelling.exported import INTERFACE, TABLE, TASKS
from mistere.labelling.selection import parse_weights
from pipelines.cli.output.console import print_text
from pipelines.cli.registry_location import store_location


def export(
    directory: Path,
    output: Path,
    store: str | None,
    count: int,
    base: Path | None,
    without: Sequence[Path],
    weights: Sequence[str],
    random_share: float,
    seed: int,
    audio_url: str,
) -> None:
    """Export, and print what was chosen.

    Args:
        directory: of the export.
        output: the output directory with the store.
        store: the store's location; None for the default.
        count: number of dialogues.
        base: a dataset; None for none.
        without: earlier exports.
        weights: ``NAME=NUMBER`` of the figures.
        random_share: part that is drawn by chance.
        seed: of the choice.
        audio_url: where recordings are served; empty for Label Studio's local storage.
    """
    options = ExportOptions(
        count=count,
        seed=seed,
        weights=parse_weights(weights),
        random_share=random_share,
        base=base,
        earlier=without,
        audio_url=audio_url,
    )
    report = export_tasks(store_location(output, store), directory, options)
    drawn = sum(choice.reason == "random" for choice in report.choices)
    chosen = counted(len(report.choices), "dialogue")
    print_text(f"{directory}: {chosen} with {counted(report.turns, 'turn')} to label, {drawn} of them drawn by chance")
    for note in report.notes:
        print_text(f"  {note}")
    print_text(
        f"  Label Studio: interface {directory / INTERFACE}, tasks {directory / TASKS}; table {directory / TABLE}"
    )
