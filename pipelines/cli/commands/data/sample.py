"""``mistere data sample``: make the sample."""

from __future__ import annotations

from pathlib import Path

from pipelines.cli.output.console import print_text
from pipelines.cli.output.task_progress import task_progress


def make_sample(directory: Path, seed: int, dialogues: int, *, faces: bool = False) -> None:
    """Make the synthetic sample dataset with a progress display."""
    from mistere.corpora.sample import make_sample as make

    with task_progress("making the sample") as advance:
        counts = make(directory, seed, dialogues, lambda done, total: advance("utterances", done, total), faces=faces)
    print_text(f"{directory}: {', '.join(f'{split} {count}' for split, count in counts.items())} utterances")
