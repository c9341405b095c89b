"""The tables that the rules look at: the facts, and the counts that mean something only beside what is declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.validate_data.facts import drift, overlap
from components.validate_data.facts.label_swap import best_exchange
from components.validate_data.facts.profile import label_distance
from components.validate_data.facts.tables import Facts
from components.validate_data.wording import shown
from mistere.common.splits import SPLITS
from mistere.config.validation import ValidationConfig

if TYPE_CHECKING:
    import pandas as pd

_FEWEST_REPEATS = 10
_FEWEST_PAIRS = 50


def tables(
    facts: Facts,
    labels: Sequence[str],
    drifts: Sequence[drift.Drift],
    config: ValidationConfig,
) -> dict[str, pd.DataFrame]:
    """Every table by name.

    Args:
        facts: what was found.
        labels: the declared labels.
        drifts: distances from the champion's dataset.
        config: the bounds.
    """
    import pandas as pd

    rows = facts.utterances
    sizes = {split: int((rows["split"] == split).sum()) for split in SPLITS}
    filled = [split for split in SPLITS if sizes[split]]
    least = {"train": config.min_train_per_class, "test": config.min_test_per_class}
    found = rows.groupby(["split", "label"]).size().to_dict()
    classes = [
        (split, label, int(found.get((split, label), 0)), least[split])
        for split in filled
        if split in least
        for label in labels
    ]
    holds = {"audio": rows["has_audio"].astype(bool), "text": rows["text_length"] > 0}
    present = [
        (split, modality, int((held & (rows["split"] == split)).sum()))
        for modality, held in holds.items()
        if held.any()
        for split in filled
    ]
    measures = drift.table(list(drifts))
    return {
        "shards": facts.shards,
        "columns": facts.columns,
        "utterances": rows,
        "dialogues": facts.dialogues,
        "dialogue_names": facts.dialogue_names,
        "speakers": facts.speakers,
        "splits": pd.DataFrame(list(sizes.items()), columns=["split", "utterances"]),
        "classes": pd.DataFrame(classes, columns=["split", "label", "utterances", "least"]),
        "label_shares": _label_shares(rows, labels, config),
        "label_meanings": _label_meanings(facts, config),
        "modalities": pd.DataFrame(present, columns=["split", "modality", "utterances"]),
        "phrases": _phrases(rows),
        "lengths": _lengths(rows, config),
        "conversations": overlap.conversations(facts.sequences),
        "recordings": overlap.recordings(rows),
        **{
            f"drift_{name}": measures[measures["measure"] == name].reset_index(drop=True)
            for name in measures["measure"]
        },
    }


def _label_shares(rows: pd.DataFrame, labels: Sequence[str], config: ValidationConfig) -> pd.DataFrame:
    """How far the label shares of dev and test are from those of train."""
    import pandas as pd

    counts = {split: rows.loc[rows["split"] == split, "label"].value_counts().to_dict() for split in SPLITS}
    found: list[tuple[Any, ...]] = []
    for split in SPLITS[1:]:
        if counts["train"] and counts[split]:
            distance, chance = label_distance(counts["train"], counts[split])
            sizes = [sum(counts[name].values()) for name in ("train", split)]
            moved = {
                label: (counts["train"].get(label, 0) / sizes[0], counts[split].get(label, 0) / sizes[1])
                for label in [*labels, *counts[split]]
            }
            label = max(moved, key=lambda name: abs(moved[name][0] - moved[name][1]))
            detail = f"'{label}' is {moved[label][0]:.0%} of train and {moved[label][1]:.0%} here"
            found.append((split, distance, max(config.max_split_distance, 3 * chance), detail))
    return pd.DataFrame(found, columns=["split", "distance", "bound", "detail"])


def _label_meanings(facts: Facts, config: ValidationConfig) -> pd.DataFrame:
    """How much better dev and test are explained by the words of train when their labels are exchanged."""
    import pandas as pd

    found = []
    for split in SPLITS[1:]:
        exchange = best_exchange(facts.said.get("train", {}), facts.said.get(split, {}))
        if exchange:
            found.append((split, exchange.gain, max(config.max_label_exchange, exchange.chance), exchange.detail))
    return pd.DataFrame(found, columns=["split", "gain", "bound", "detail"])


def _phrases(rows: pd.DataFrame) -> pd.DataFrame:
    """Sentences that occur many times, by the share of the utterances with text that they make up; the first, if none does."""
    import pandas as pd

    said = rows[rows["phrase"].notna()]
    written = max(1, int((rows["text_length"] > 0).sum()))
    counts = said["phrase"].value_counts()
    frequent = counts[(counts >= _FEWEST_REPEATS) | (counts.index == counts.index[0])] if len(counts) else counts
    firsts = said[said["phrase"].isin(frequent.index)].drop_duplicates("phrase")
    first = dict(zip(firsts["phrase"], shown(firsts, "utterances", "", len(firsts)), strict=True))
    ranked = sorted(frequent.items(), key=lambda item: (-item[1], item[0]))
    return pd.DataFrame(
        [(int(count), count / written if count >= _FEWEST_REPEATS else 0.0, first[phrase]) for phrase, count in ranked],
        columns=["utterances", "share", "place"],
    )


def _lengths(rows: pd.DataFrame, config: ValidationConfig) -> pd.DataFrame:
    """Rank correlation (Spearman) of the lengths of transcripts and recordings, where there are enough pairs to tell."""
    import pandas as pd

    found = []
    pairs = rows[rows["letters_per_second"].notna()]
    for split in SPLITS:
        own = pairs.loc[pairs["split"] == split, ["text_length", "seconds"]].rank()
        if len(own) >= _FEWEST_PAIRS and own["text_length"].nunique() > 1 and own["seconds"].nunique() > 1:
            correlation = float(own["text_length"].corr(own["seconds"]))
            found.append((split, len(own), correlation, config.min_length_correlation))
    return pd.DataFrame(found, columns=["split", "pairs", "correlation", "bound"])
