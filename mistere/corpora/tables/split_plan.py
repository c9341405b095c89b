"""The splits of an imported table: its own, the base's, or an assignment, and what the report says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mistere.common.counting import counted, percent
from mistere.common.splits import SPLITS, Split
from mistere.corpora.import_report import ImportReport, some
from mistere.corpora.tables.base import Base
from mistere.corpora.tables.rows import Row, Table
from mistere.corpora.tables.splits import Assignment, Dialogue, Kind, assign

_FEWEST_DIALOGUES = 10
"""With fewer dialogues, splits that have every label are hardly possible."""


def assign_dialogues(
    table: Table,
    dialogues: Mapping[str, Sequence[Row]],
    content: Mapping[str, Dialogue],
    shares: Sequence[float],
    seed: int,
    old: Base | None,
) -> Assignment:
    """The split of every dialogue: the table's, that of a base, or by chance.

    Args:
        table: the table.
        dialogues: its rows by dialogue.
        content: what each dialogue holds.
        shares: of train, dev and test.
        seed: of the assignment.
        old: the base, whose dialogues and speakers keep their splits.
    """
    if "split" in table.columns:
        return Assignment({name: rows[0].split or "train" for name, rows in dialogues.items()}, by_speaker=False)
    kept = {name: old.splits[name] for name in dialogues if old is not None and name in old.splits}
    settled = {speaker: set(splits) for speaker, splits in (old.speakers if old is not None else {}).items()}
    for name, split in kept.items():
        for row in dialogues[name]:
            if row.speaker is not None:
                settled.setdefault(row.speaker, set()).add(split)
    new = {name: dialogue for name, dialogue in content.items() if name not in kept}
    assigned = assign(new, shares, seed, {speaker: frozenset(splits) for speaker, splits in settled.items()})
    return replace(assigned, splits={**kept, **assigned.splits})


def describe_splits(table: Table, shares: Sequence[float], seed: int, assignment: Assignment) -> str:
    """How the splits were made, for ``dataset.yaml``."""
    if "split" in table.columns:
        return "The table's own."
    parts = " / ".join(map(percent, shares))
    apart = "; no speaker is in two splits" if assignment.by_speaker else ""
    return f"By whole dialogues, {parts}, with similar shares of labels and modalities, from --seed {seed}{apart}."


def speakers_disjoint(table: Table, assignment: Assignment, old: Base | None) -> bool:
    """Whether no speaker is in two splits; this needs a speaker for every utterance, unless dialogues are only replaced."""
    speakers: dict[str, set[Split]] = {
        speaker: set(splits) for speaker, splits in (old.speakers if old else {}).items()
    }
    for row in table.rows:
        if row.speaker is not None:
            speakers.setdefault(row.speaker, set()).add(assignment.splits[row.dialogue])
    if any(len(splits) > 1 for splits in speakers.values()):
        return False
    replaced = old is not None and all(old.splits.get(name) == split for name, split in assignment.splits.items())
    if replaced and old is not None and old.info.speaker_disjoint:
        return True
    return not any(row.speaker is None for row in table.rows) and not (old is not None and old.anonymous)


def reported_splits(table: Table, dialogues: Mapping[str, Sequence[Row]], described: str, old: Base | None) -> str:
    """How the splits were made, for the summary; empty if the table has its own."""
    if "split" in table.columns or old is None:
        return "" if "split" in table.columns else described
    if all(name in old.splits for name in dialogues):
        return "The base's own."
    return f"The base's own; those of new dialogues: {described[:1].lower()}{described[1:]}"


def split_notes(
    table: Table,
    content: Mapping[str, Dialogue],
    assignment: Assignment,
    old: Base | None,
    report: ImportReport,
) -> list[str]:
    """Sentences on what the splits lack."""
    notes = []
    if "split" not in table.columns:
        if "speaker" in table.columns and not assignment.by_speaker:
            notes.append("The speakers are too mixed to keep them apart: some are in several splits, or may be.")
        if old is None and len(content) >= _FEWEST_DIALOGUES:
            lacking = [(split, kind) for split, kind in assignment.lacking if split in report.counts]
            notes += [_lacking_note(lacking, content)] if lacking else []
    notes += [f"No dialogue is in {split}: training needs one there." for split in SPLITS if split not in report.counts]
    return notes


def _lacking_note(lacking: Sequence[tuple[Split, Kind]], content: Mapping[str, Dialogue]) -> str:
    holders = Counter(kind for dialogue in content.values() for kind in dialogue.counts)
    reasons = [
        f"{split} has no {repr(kind[1]) if kind[0] == 'label' else kind[1]} (in {counted(holders[kind], 'dialogue')})"
        for split, kind in lacking
    ]
    return (
        f"Validation rejects these splits: {some(reasons)}: add dialogues, try another --seed, or add a column split."
    )
