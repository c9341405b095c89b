"""Expectations of the labels: declared, in every split, enough of each, with similar shares and the same words in all splits.

A turn without a label is context: nothing here counts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import Expectation, is_at_least, is_between
from components.validate_data.facts.label_swap import best_exchange
from components.validate_data.wording import brief
from mistere.common.counting import percent
from mistere.common.splits import SPLITS
from mistere.config.validation import ValidationSettings
from mistere.data.profile import label_distance

if TYPE_CHECKING:
    import pandas as pd


_MOST_ROLES = 10


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


def _labelled(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """How many utterances of each split have a label that counts."""
    import pandas as pd

    rows = dataset.facts.utterances
    splits = [split for split in SPLITS if (rows["split"] == split).any()]
    counts = [(split, int(rows.loc[rows["split"] == split, "label"].notna().sum())) for split in splits]
    return pd.DataFrame(counts, columns=["split", "labelled"])


def _roles(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """How many turns have each of the roles that are predicted, and which roles occur."""
    import pandas as pd

    counts = dataset.facts.utterances["role"].value_counts().to_dict()
    occurring = ", ".join(f"'{brief(role)}'" for role in sorted(counts)[:_MOST_ROLES]) or "none"
    rows = [(brief(role), int(counts.get(role, 0)), occurring) for role in dataset.declared.predict_roles]
    return pd.DataFrame(rows, columns=["role", "turns", "occurring"])


def _roles_are_missing(dataset: Dataset) -> str:
    """Why a split may have no labelled turn: then the roles are to be corrected first."""
    roles = dataset.declared.predict_roles
    occurring = set(dataset.facts.utterances["role"].dropna())
    return "not checked until the roles of dataset.yaml are corrected" if set(roles) - occurring else ""


def _classes(dataset: Dataset, settings: Settings) -> pd.DataFrame:
    """How many utterances each label has in train and in test."""
    import pandas as pd

    rows = dataset.facts.utterances
    least = {"train": settings.min_train_per_class, "test": settings.min_test_per_class}
    counts = rows.groupby(["split", "label"]).size().to_dict()
    classes = [
        (split, label, int(counts.get((split, label), 0)), least[split])
        for split in SPLITS
        if split in least and rows.loc[rows["split"] == split, "label"].notna().any()
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
            detail = f"'{label}' is {percent(shares[label][0])} of train and {percent(shares[label][1])} here"
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
        name="roles_occur",
        layer="Labels",
        severity="block",
        settings=Settings,
        title="Every role of predict_roles occurs",
        table="roles",
        rows=_roles,
        check=is_between("turns", min_value=1),
        happened="no turn has {examples}",
        fix="correct predict_roles in dataset.yaml, or the column role",
        noun="role",
        example="the role '{role}' of predict_roles (the roles that occur: {occurring})",
        not_checked=lambda dataset: "" if dataset.declared.predict_roles else "dataset.yaml names no predict_roles",
    ),
    Expectation(
        name="splits_labelled",
        layer="Labels",
        severity="block",
        settings=Settings,
        title="train, dev and test each have utterances with a label",
        table="labelled",
        rows=_labelled,
        check=is_between("labelled", min_value=1),
        happened="{n} {have} no utterance with a label ({examples}), so all turns there are context",
        fix="label some of them, or move dialogues with labels there",
        noun="split",
        example="{split}",
        needs=("label",),
        not_checked=_roles_are_missing,
    ),
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
        fix="correct the label, add it to 'labels' in dataset.yaml, or make it null for a turn that is only context",
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
