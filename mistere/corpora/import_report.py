"""The report of an import, and a streaming writer that counts for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.dataset_writer import write_dataset


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import.

    Attributes:
        counts: utterances per split, context turns included; a split without any is left out.
        labelled: utterances with a label per split.
        dialogues: dialogues per split.
        notes: one sentence for everything changed, left out or missing, and for every difference from published counts.
        splits: how the importer made the splits, in a sentence; empty if the source has splits.
    """

    counts: dict[Split, int]
    dialogues: dict[Split, int]
    notes: list[str] = field(default_factory=list)
    splits: str = ""
    labelled: dict[Split, int] = field(default_factory=dict)


def write_counted(directory: Path, info: DatasetInfo, rows: Iterable[tuple[Split, Utterance]]) -> ImportReport:
    """Write a dataset in a stream and count it; the report has no notes yet.

    Args:
        directory: directory of the new dataset; must not exist or be empty.
        info: becomes ``dataset.yaml``.
        rows: utterances with their split, dialogue by dialogue.

    Raises:
        UsageError: the directory exists and is not empty.
        DataError: there are no rows.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file: choose a new folder for the dataset.")
    dialogues: dict[Split, int] = {}
    labelled: dict[Split, int] = {}
    counts = write_dataset(directory, info, _counting(rows, dialogues, labelled))
    return ImportReport(_in_order(counts), _in_order(dialogues), labelled=_in_order(labelled))


def _counting(
    rows: Iterable[tuple[Split, Utterance]], dialogues: dict[Split, int], labelled: dict[Split, int]
) -> Iterator[tuple[Split, Utterance]]:
    last: tuple[Split, str] | None = None
    for split, utterance in rows:
        if (split, utterance.dialogue_id) != last:
            last = (split, utterance.dialogue_id)
            dialogues[split] = dialogues.get(split, 0) + 1
        labelled[split] = labelled.get(split, 0) + (utterance.label is not None)
        yield split, utterance
    if not sum(labelled.values()):
        raise DataError(
            "nothing is left to import: no utterance has one of the labels; check the source and the options."
        )


def _in_order(counts: dict[Split, int]) -> dict[Split, int]:
    return {split: counts[split] for split in SPLITS if split in counts}


def some(names: list[str], limit: int = 3) -> str:
    """The first names of a list as text: ``a, b, c and 5 more``."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
