"""``mistere data sample``: make the sample."""

from __future__ import annotations

from pathlib import Path


def make_sample(directory: Path, seed: int, dialogues: int) -> None:
    """Make the synthetic sample dataset with a progress display."""
    from rich.progress import Progress

    from mistere.corpora.sample import make_sample as make

    with Progress(transient=True) as bar:
        task = bar.add_task("speaking", total=None)
        counts = make(directory, seed, dialogues, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{directory}: {', '.join(f'{split} {count}' for split, count in counts.items())} utterances")
