"""The tables that expectations check: the facts, and what is counted from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.validate_data.facts import drift, overlap
from components.validate_data.facts.dataset_facts import Facts
from components.validate_data.wording import shown
from mistere.common.splits import SPLITS

if TYPE_CHECKING:
    import pandas as pd

_FEWEST_REPEATS = 10


def tables(facts: Facts, drifts: Sequence[drift.Drift]) -> dict[str, pd.DataFrame]:
    """Every table by name; an expectation can add a table of its own.

    Args:
        facts: what was measured.
        drifts: distances from the champion's dataset.
    """
    import pandas as pd

    rows = facts.utterances
    sizes = {split: int((rows["split"] == split).sum()) for split in SPLITS}
    filled = [split for split in SPLITS if sizes[split]]
    has_modality = {"audio": rows["has_audio"].astype(bool), "text": rows["text_length"] > 0}
    # An encoder learns from labelled turns; a split without any is the finding of another expectation.
    labelled = rows["label"].notna()
    counted = labelled | ~rows["split"].isin(rows.loc[labelled, "split"])
    present = [
        (split, modality, int((held & counted & (rows["split"] == split)).sum()))
        for modality, held in has_modality.items()
        if held.any()
        for split in filled
    ]
    cells = facts.cells[facts.cells["present"].astype(bool)]
    present += [
        (split, modality, int((cells["split"][cells["modality"] == modality] == split).sum()))
        for modality in cells["modality"].unique()
        for split in filled
    ]
    measures = drift.table(list(drifts))
    return {
        "shards": facts.shards,
        "columns": facts.columns,
        "utterances": rows,
        "cells": facts.cells,
        "dialogues": facts.dialogues,
        "dialogue_names": facts.dialogue_names,
        "speakers": facts.speakers,
        "splits": pd.DataFrame(list(sizes.items()), columns=["split", "utterances"]),
        "modalities": pd.DataFrame(present, columns=["split", "modality", "utterances"]),
        "phrases": _phrases(rows),
        "conversations": overlap.conversations(facts.sequences),
        "recordings": overlap.recordings(rows),
        **{
            f"drift_{name}": measures[measures["measure"] == name].reset_index(drop=True)
            for name in measures["measure"]
        },
    }


def _phrases(rows: pd.DataFrame) -> pd.DataFrame:
    """Frequent sentences and their share of the utterances with text; the most frequent one if none is frequent."""
    import pandas as pd

    spoken = rows[rows["phrase"].notna()]
    written = max(1, int((rows["text_length"] > 0).sum()))
    counts = spoken["phrase"].value_counts()
    frequent = counts[(counts >= _FEWEST_REPEATS) | (counts.index == counts.index[0])] if len(counts) else counts
    firsts = spoken[spoken["phrase"].isin(frequent.index)].drop_duplicates("phrase")
    first = dict(zip(firsts["phrase"], shown(firsts, "utterances", "", len(firsts)), strict=True))
    ranked = sorted(frequent.items(), key=lambda item: (-item[1], item[0]))
    return pd.DataFrame(
        [(int(count), count / written if count >= _FEWEST_REPEATS else 0.0, first[phrase]) for phrase, count in ranked],
        columns=["utterances", "share", "location"],
    )
