"""What the literature counts in the corpora, to say where an import differs.

The figures are those of Dutta, Balaji and Ganapathy (arXiv 2602.23300): utterances per split, and dialogues in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mistere.common.splits import Split


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """Utterances by groups of splits (IEMOCAP's dev split is everyone's own choice), and dialogues in all."""

    utterances: tuple[tuple[tuple[Split, ...], int], ...]
    dialogues: int
    unit: str = "dialogues"


PUBLISHED: dict[str, PublishedCounts] = {
    "iemocap": PublishedCounts(((("train", "dev"), 5810), (("test",), 1623)), 151),
    "meld": PublishedCounts(((("train",), 9989), (("dev",), 1109), (("test",), 2610)), 1432),
    "mosi": PublishedCounts(((("train",), 1284), (("dev",), 229), (("test",), 686)), 93, "videos"),
}


def differences(corpus: str, counts: Mapping[Split, int], dialogues: Mapping[Split, int]) -> list[str]:
    """Every difference from the published counts, a sentence each; none where all agree.

    Args:
        corpus: a key of :data:`PUBLISHED`; IEMOCAP is meant with six classes.
        counts: imported utterances per split.
        dialogues: imported dialogues per split.
    """
    published = PUBLISHED[corpus]
    sentences = []
    for splits, expected in published.utterances:
        found = sum(counts.get(split, 0) for split in splits)
        if found != expected:
            sentences.append(f"{' and '.join(splits)}: {found} utterances came in, {expected} are published.")
    found = sum(dialogues.values())
    if found != published.dialogues:
        sentences.append(f"{found} {published.unit} came in, {published.dialogues} are published.")
    return sentences
