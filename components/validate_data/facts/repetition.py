"""How much of each split is one and the same text, or one and the same recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.validate_data.wording import shown
from mistere.common.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 10
"""With fewer texts or recordings in a split, repetitions say little."""


def most_frequent(utterances: pd.DataFrame, digest: str) -> pd.DataFrame:
    """The most frequent text or recording of each split that has enough of them.

    Args:
        utterances: see :class:`~components.validate_data.facts.dataset_facts.Facts`.
        digest: the column that identifies it: ``wording`` or ``sound``.

    Returns:
        split, utterances (with a text or recording), copies (of the most frequent one), share, location (of the first copy).
    """
    import pandas as pd

    rows = []
    known = utterances[utterances[digest].notna()]
    for split in SPLITS:
        own = known[known["split"] == split]
        if len(own) < FEWEST:
            continue
        counts = own[digest].value_counts()
        copies = int(counts.iloc[0])
        first = own[own[digest] == counts.index[0]].head(1)
        rows.append((split, len(own), copies, copies / len(own), shown(first, "utterances", "", 1)[0]))
    return pd.DataFrame(rows, columns=["split", "utterances", "copies", "share", "location"])
