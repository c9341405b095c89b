"""What splits share: conversations, by their word sequences, and recordings, by their samples.

A short sentence that two splits share is no evidence. A dialogue that shares most of its word sequences with one dialogue of
another split is the same conversation. Sequences that many dialogues have (a greeting, a jingle) are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.validate_data.wording import shown
from mistere.common.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

LEAST_SEQUENCES = 12
"""With fewer sequences of five words, a conversation cannot be recognized."""
_COMMON = 20


def conversations(sequences: pd.DataFrame) -> pd.DataFrame:
    """For each recognizable dialogue of dev and test, the most similar dialogue of an earlier split.

    Args:
        sequences: split, dialogue_id, sequence, of all splits.

    Returns:
        split, dialogue_id, twin, twin_split, overlap: the share of the shorter one's sequences that both have.
    """
    import pandas as pd

    table = sequences.drop_duplicates().astype({"split": object, "dialogue_id": object})
    sizes = table.groupby(["split", "dialogue_id"]).size().rename("size").reset_index()
    recognizable = sizes[sizes["size"] >= LEAST_SEQUENCES]
    rows = []
    for position, split in enumerate(SPLITS):
        earlier = recognizable[recognizable["split"].isin(SPLITS[:position])]
        own = recognizable[recognizable["split"] == split]
        if earlier.empty or own.empty:
            continue
        earlier_sequences = table.merge(earlier, on=["split", "dialogue_id"])
        earlier_sequences = earlier_sequences[
            earlier_sequences.groupby("sequence")["sequence"].transform("size") <= _COMMON
        ]
        own_sequences = table.merge(own, on=["split", "dialogue_id"])
        both = own_sequences.merge(earlier_sequences, on="sequence", suffixes=("", "_twin"))
        keys = ["dialogue_id", "size", "split_twin", "dialogue_id_twin", "size_twin"]
        shared = both.groupby(keys).size().rename("shared").reset_index()
        shared["overlap"] = shared["shared"] / shared[["size", "size_twin"]].min(axis=1)
        best = shared.sort_values("overlap", ascending=False, kind="stable").drop_duplicates("dialogue_id")
        found = own[["split", "dialogue_id"]].merge(
            best[["dialogue_id", "dialogue_id_twin", "split_twin", "overlap"]], on="dialogue_id", how="left"
        )
        rows.append(found)
    columns = ["split", "dialogue_id", "twin", "twin_split", "overlap"]
    if not rows:
        return pd.DataFrame(columns=columns)
    result = pd.concat(rows, ignore_index=True).rename(columns={"dialogue_id_twin": "twin", "split_twin": "twin_split"})
    result["overlap"] = result["overlap"].fillna(0.0).astype(float)
    return result[columns]


def recordings(utterances: pd.DataFrame) -> pd.DataFrame:
    """One row per recording: the splits that have it, its copies, and its first two locations.

    Args:
        utterances: see :class:`~components.validate_data.facts.dataset_facts.Facts`.
    """
    import pandas as pd

    columns = ["sound", "splits", "split_count", "copies", "location", "other_location"]
    recorded = utterances[utterances["sound"].notna()]
    if recorded.empty:
        return pd.DataFrame(columns=columns)
    result = recorded.groupby("sound", sort=False).agg(copies=("sound", "size"), split_count=("split", "nunique"))
    result = result.reset_index()
    located = {
        sound: _locate(same)
        for sound, same in recorded[recorded.duplicated("sound", keep=False)].groupby("sound", sort=False)
    }
    for position, name in enumerate(("splits", "location", "other_location")):
        result[name] = [located[sound][position] if sound in located else "" for sound in result["sound"]]
    return result[columns]


def _locate(same: pd.DataFrame) -> tuple[str, str, str]:
    """Of the utterances with one recording: their splits, and two of their locations, in two splits if possible."""
    splits = [split for split in SPLITS if (same["split"] == split).any()]
    firsts = same.drop_duplicates("split") if len(splits) > 1 else same
    one, other = shown(firsts, "utterances", "", 2)
    return " and ".join(splits), one, other
