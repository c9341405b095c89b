"""Expectations of the labels: declared, enough of each, with similar shares and the same words in all splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_at_least
from components.validate_data.facts.label_swap import best_exchange
from components.validate_data.facts.profile import label_distance
from mistere.common.splits import SPLITS
from mistere.config.validation import ValidationSettings

if TYPE_CHECKING:
    import pandas as pd


class Settings(ValidationSettings):
    """Bounds of the labels."""

    min_train_per_class: int = Field(default=1, ge=0, description="least number of utterances of each label in train.")
    min_test_per_class: int = Field(default=1, ge=0, description="least number of utterances of each label in test.")
    max_split_distance: float = Field(
        default=0.35,
        gt=0,
        le=1,
        description="Jensen-Shannon distance (0..1) between the label shares of train and of another split.",
    )


def _classes(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """How many utterances each label has in train and in test."""
    import pandas as pd

    rows = dataset.facts.utterances
    least = {"train": settings.min_train_per_class, "test": settings.min_test_per_class}
    counts = rows.groupby(["split", "label"]).size().to_dict()
    classes = [
        (split, label, int(counts.get((split, label), 0)), least[split])
        for split in SPLITS
        if split in least and (rows["split"] == split).any()
        for label in dataset.declared.labels
    ]
    return pd.DataFrame(classes, columns=["split", "label", "utterances", "least"])


def _label_shares(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """How far the label shares of dev and test are from those of train."""
    import pandas as pd

    rows = dataset.facts.utterances
    counts = {split: rows.loc[rows["split"] == split, "label"].value_counts().to_dict() for split in SPLITS}
    table_rows: list[tuple[Any, ...]] = []
    for split in SPLITS[1:]:
        if counts["train"] and counts[split]:
            distance, chance = label_distance(counts["train"], counts[split])
            sizes = [sum(counts[name].values()) for name in ("train", split)]
            shares = {
                label: (counts["train"].get(label, 0) / sizes[0], counts[split].get(label, 0) / sizes[1])
                for label in [*dataset.declared.labels, *counts[split]]
            }
            label = max(shares, key=lambda name: abs(shares[name][0] - shares[name][1]))
            detail = f"'{label}' is {shares[label][0]:.0%} of train and {shares[label][1]:.0%} here"
            table_rows.append((split, distance, max(settings.max_split_distance, 3 * chance), detail))
    return pd.DataFrame(table_rows, columns=["split", "distance", "bound", "detail"])


def _label_meanings(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """How much better the words of train explain dev and test if their labels are exchanged."""
    import pandas as pd

    words = dataset.facts.label_words
    table_rows = []
    for split in SPLITS[1:]:
        exchange = best_exchange(words.get("train", {}), words.get(split, {}))
        if exchange:
            table_rows.append(
                (split, exchange.gain, max(settings.max_label_exchange, exchange.chance), exchange.detail)
            )
    return pd.DataFrame(table_rows, columns=["split", "gain", "bound", "detail"])


EXPECTATIONS = (
    Expectation(
        name="label_declared",
        layer="Labels",
        severity="block",
        settings=Settings,
        title="Every label is one of: {labels}",
        check=lambda dataset, _: (
            "ExpectColumnValuesToBeInSet",
            {"column": "label", "value_set": list(dataset.declared.labels)},
        ),
        happened="{n} {have} a label that dataset.yaml does not declare: {values} ({examples})",
        fix="correct the label, or add it to 'labels' in dataset.yaml",
        needs=("label",),
    ),
    Expectation(
        name="labels_covered",
        layer="Labels",
        severity="block",
        settings=Settings,
        title="Every label occurs in train and in test",
        table="classes",
        rows=_classes,
        check=is_at_least("utterances", "least"),
        happened="there are too few utterances of {examples}",
        fix="move whole dialogues so that train and test both have each label (with another --seed, if the importer made the "
        "splits), or remove it from dataset.yaml",
        needs=("label",),
    ),
    Expectation(
        name="labels_alike",
        layer="Labels",
        severity="warn",
        settings=Settings,
        title="The labels have similar shares in all splits",
        table="label_shares",
        rows=_label_shares,
        check=is_at_least("bound", "distance"),
        happened="the shares of the labels differ from those in train ({examples})",
        fix="look for labels that were mapped differently there, or make the splits again; the bound is "
        "validation.max_split_distance",
        example="{split}: distance {distance:.2f}, allowed {bound:.2f}; {detail}",
        needs=("label",),
    ),
    Expectation(
        name="labels_mean_the_same",
        layer="Labels",
        severity="block",
        settings=Settings,
        title="The labels go with the same words in all splits",
        table="label_meanings",
        rows=_label_meanings,
        check=is_at_least("bound", "gain"),
        happened="labels were exchanged compared with train ({examples})",
        fix="compare the label maps with which the splits were made; the bound is validation.max_label_exchange",
        example="{split}: {detail}",
        needs=("label", "text"),
    ),
)
