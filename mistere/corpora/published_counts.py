"""Published sizes of the corpora, to report where an import differs.

The figures are from Dutta, Balaji and Ganapathy (arXiv 2602.23300): utterances per split, and dialogues in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mistere.common.counting import counted
from mistere.common.splits import Split


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """Utterances by groups of splits (IEMOCAP has no standard dev split) and dialogues in all."""

    utterances: tuple[tuple[tuple[Split, ...], int], ...]
    dialogues: int
    unit: str = "dialogues"


PUBLISHED: dict[str, PublishedCounts] = {
    "iemocap": PublishedCounts(((("train", "dev"), 5810), (("test",), 1623)), 151),
    "meld": PublishedCounts(((("train",), 9989), (("dev",), 1109), (("test",), 2610)), 1432),
    "mosi": PublishedCounts(((("train",), 1284), (("dev",), 229), (("test",), 686)), 93, "videos"),
}


def differences(corpus: str, counts: Mapping[Split, int], dialogues: Mapping[Split, int]) -> list[str]:
    """One sentence for each difference from the published counts.

    Args:
        corpus: a key of :data:`PUBLISHED`; ``iemocap`` is the version with six classes.
        counts: imported utterances per split, those with a label.
        dialogues: imported dialogues per split.
    """
    published = PUBLISHED[corpus]
    sentences = []
    for splits, expected in published.utterances:
        imported = sum(counts.get(split, 0) for split in splits)
        if imported != expected:
            sentences.append(
                f"{' and '.join(splits)}: {counted(imported, 'utterance')} came in, {expected} are published."
            )
    imported = sum(dialogues.values())
    if imported != published.dialogues:
        sentences.append(f"{imported} {published.unit} came in, {published.dialogues} are published.")
    return sentences
