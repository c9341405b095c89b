"""``mistere data``: make the sample, bring corpora in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.core.dataset import Split
from components.core.errors import UsageError
from components.core.nearest import nearest


def make_sample(directory: Path, seed: int, dialogues: int) -> None:
    """Make the synthetic sample dataset with a progress display."""
    from rich.progress import Progress

    from components.core.corpora.sample import make_sample as make

    with Progress(transient=True) as bar:
        task = bar.add_task("speaking", total=None)
        counts = make(directory, seed, dialogues, lambda done, total: bar.update(task, completed=done, total=total))
    _tell(directory, counts)


def import_corpus(corpus: str, source: Path, directory: Path) -> None:
    """Bring a corpus into the dataset form."""
    from components.core.corpora.meld import import_meld

    importers: dict[str, Callable[[Path, Path], dict[Split, int]]] = {"meld": import_meld}
    if corpus not in importers:
        raise UsageError(f"unknown corpus {corpus!r}{nearest(corpus, importers)}")
    _tell(directory, importers[corpus](source, directory))


def _tell(directory: Path, counts: dict[Split, int]) -> None:
    print(f"{directory}: " + ", ".join(f"{split} {count}" for split, count in counts.items()) + " utterances")
