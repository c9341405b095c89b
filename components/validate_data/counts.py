"""The tables that the rules look at: the facts, and the counts that mean something only beside what is declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.core.config.validation import ValidationConfig
from components.core.dataset import SPLITS
from components.validate_data.facts import Facts

if TYPE_CHECKING:
    import pandas as pd

_MODALITIES = {"speech": "audio", "text": "text"}


def tables(
    facts: Facts, labels: Sequence[str], modalities: Sequence[str], config: ValidationConfig
) -> dict[str, pd.DataFrame]:
    """Every table by name.

    Args:
        facts: what was found.
        labels: the declared labels.
        modalities: what the dataset is said to have, of ``speech`` and ``text``.
        config: the bounds.
    """
    import pandas as pd

    rows = facts.utterances
    sizes = {split: int((rows["split"] == split).sum()) for split in SPLITS}
    filled = [split for split in SPLITS if sizes[split]]
    least = {"train": 1, "test": config.min_test_per_class}
    found = rows.groupby(["split", "label"]).size().to_dict()
    classes = [
        (split, label, int(found.get((split, label), 0)), least[split])
        for split in filled
        if split in least
        for label in labels
    ]
    holds = {"speech": rows["has_audio"].astype(bool), "text": rows["text_length"] > 0}
    present = [
        (split, _MODALITIES[name], int((holds[name] & (rows["split"] == split)).sum()))
        for name in modalities
        for split in filled
    ]
    return {
        "shards": facts.shards,
        "columns": facts.columns,
        "utterances": rows,
        "dialogues": facts.dialogues,
        "dialogue_names": facts.dialogue_names,
        "speakers": facts.speakers,
        "splits": pd.DataFrame(list(sizes.items()), columns=["split", "utterances"]),
        "classes": pd.DataFrame(classes, columns=["split", "label", "utterances", "least"]),
        "modalities": pd.DataFrame(present, columns=["split", "modality", "utterances"]),
    }
