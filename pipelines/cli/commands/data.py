"""``mistere data``: make the sample, bring corpora in."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from mistere.common.errors import UsageError
from mistere.common.splits import Split
from mistere.corpora.import_report import ImportReport


def make_sample(directory: Path, seed: int, dialogues: int) -> None:
    """Make the synthetic sample dataset with a progress display."""
    from rich.progress import Progress

    from mistere.corpora.sample import make_sample as make

    with Progress(transient=True) as bar:
        task = bar.add_task("speaking", total=None)
        counts = make(directory, seed, dialogues, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{directory}: {_counted(counts)} utterances")


def import_corpus(corpus: Literal["meld", "iemocap", "mosi"], source: Path, directory: Path, **options: Any) -> None:
    """Bring a corpus into the dataset form.

    Args:
        corpus: which one.
        source: its release.
        directory: where the dataset goes.
        options: the importer's own.
    """
    for name, allowed in {"classes": (6, 4), "zero": ("positive", "drop")}.items():
        if name in options:
            _insist(name, options[name], allowed)
    importer = getattr(import_module(f"mistere.corpora.importers.{corpus}"), f"import_{corpus}")
    _tell(directory, importer(source, directory, **options))


def import_table(
    source: Path, directory: Path, columns: Sequence[str], labels: str, splits: str, **options: Any
) -> None:
    """Bring a table into the dataset form.

    Args:
        source: the table.
        directory: where the dataset goes.
        columns: ``name=column`` each.
        labels: with commas between them.
        splits: three shares with commas between them.
        options: the importer's own.
    """
    from mistere.corpora.importers.table import import_table as importer

    _insist("missing_audio", options["missing_audio"], ("fail", "missing"))
    named = {}
    for column in columns:
        name, separator, value = column.partition("=")
        if not separator or not value:
            raise UsageError(f"--column {column}: write it as NAME=COLUMN, for example --column label=emotion.")
        named[name.strip()] = value.strip()
    try:
        train, dev, test = (float(share) for share in splits.split(","))
    except ValueError as error:
        raise UsageError(f"--splits {splits}: name three shares, for example 0.8,0.1,0.1.") from error
    order = [label.strip() for label in labels.split(",") if label.strip()]
    report = importer(source, directory, columns=named, labels=order, splits=(train, dev, test), **options)
    _tell(directory, report)


def _insist(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise UsageError(f"--{name.replace('_', '-')} {value}: choose {' or '.join(map(str, allowed))}.")


def _tell(directory: Path, report: ImportReport) -> None:
    print(f"{directory}: {_counted(report.counts)} utterances in {sum(report.dialogues.values()):,} dialogues")
    for note in report.notes:
        print(f"  {note}")


def _counted(counts: dict[Split, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())
