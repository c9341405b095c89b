"""Turns without a label, and turns whose role is not predicted, are context in every reader of a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components.pull_data.run import describe
from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.report import render
from components.validate_data.validation import validate
from components.validate_data.verdict import Validation
from mistere.artifacts.manifests import UtteranceSet
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import DatasetInfo, Utterance, load_info, read_utterances, shards_of
from mistere.data.dataset_writer import write_dataset
from mistere.data.diff import diff_datasets
from mistere.data.utterances import UtteranceReader, row_ranges
from mistere.data.versions import PinnedData, pin

INFO = DatasetInfo(
    name="calls",
    description="An agent and a customer.",
    labels=["joy", "neutral"],
    language="en",
    licence="CC0-1.0",
    splits="by dialogue",
    speaker_disjoint=False,
)
CUSTOMER = INFO.model_copy(update={"predict_roles": ["customer"]})


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


def plain() -> Iterator[tuple[Split, Utterance]]:
    for split in SPLITS:
        for dialogue in range(3):
            for turn in range(4):
                text = f"{split} {dialogue} says turn {turn}"
                yield split, Utterance(f"{split}-{dialogue}", turn, INFO.labels[(turn // 2 + dialogue) % 2], text)


def calls(unlabelled: int = 2) -> Iterator[tuple[Split, Utterance]]:
    """The agent, whose turns have labels too, speaks first; the third turn, the agent's, of each dialogue has no label."""
    for split, row in plain():
        role = "customer" if row.turn % 2 else "agent"
        yield split, replace(row, role=role, label=None if row.turn == unlabelled else row.label)


def written(folder: Path, info: DatasetInfo, rows: Iterable[tuple[Split, Utterance]]) -> PinnedData:
    write_dataset(folder, info, rows)
    return pin(str(folder), str(folder.parent / "remote"))


def described(version: PinnedData) -> UtteranceSet:
    return describe(version.remote, version.digest)


def labels_of(reference: UtteranceSet, split: Split = "test") -> list[str | None]:
    """The labels in the order of the rows; the three ways of reading agree."""
    reader = UtteranceReader(reference)
    streamed = [row.label for row in reader.stream(split)]
    ranges = [rows for rows in row_ranges(reference, 5) if rows.split == split]
    assert [row.label for rows in ranges for row in reader.read(rows)] == streamed
    assert [label for rows in ranges for label in reader.table(rows)["label"].to_pylist()] == streamed
    return streamed


def validated(folder: Path, info: DatasetInfo) -> Validation:
    declared = Declared(info.name, info.labels, info.language, info.speaker_disjoint, {}, info.predict_roles)
    files = [ShardFile(split, path, path.name) for split in SPLITS for path in shards_of(folder.iterdir(), split)]
    return validate(files, declared, ValidationConfig())


def failed(folder: Path, info: DatasetInfo, rows: Iterable[tuple[Split, Utterance]]) -> list[str]:
    write_dataset(folder, info, rows)
    return validated(folder, info).failed


def test_roles_are_a_column_only_where_they_are_used(tmp_path: Path) -> None:
    write_dataset(tmp_path / "plain", INFO, plain())
    assert "role" not in pq.read_schema(tmp_path / "plain" / "test-00000.parquet").names
    assert "predict_roles" not in (tmp_path / "plain" / "dataset.yaml").read_text()
    write_dataset(tmp_path / "calls", CUSTOMER, calls())
    assert load_info(tmp_path / "calls" / "dataset.yaml").predict_roles == ["customer"]
    rows = list(read_utterances(shards_of((tmp_path / "calls").iterdir(), "test")))
    assert [(row.role, row.label) for row in rows[:3]] == [("agent", "joy"), ("customer", "joy"), ("agent", None)]


def test_a_column_that_begins_late_begins_a_shard(tmp_path: Path) -> None:
    rows = [("train", Utterance(f"d{n}", 0, "joy", "hi", role="agent" if n > 200 else None)) for n in range(300)]
    write_dataset(tmp_path / "late", INFO, rows)  # type: ignore[arg-type]
    shards = shards_of((tmp_path / "late").iterdir(), "train")
    assert ["role" in pq.read_schema(shard).names for shard in shards] == [False, True]
    assert [row.role for row in read_utterances(shards)] == [row.role for _, row in rows]


@pytest.mark.parametrize("roles", [["customer", "customer"], [" "]])
def test_roles_are_names(roles: list[str]) -> None:
    with pytest.raises(ValidationError):
        DatasetInfo.model_validate({**INFO.model_dump(), "predict_roles": roles})


def test_turns_of_other_roles_have_no_label_in_any_reader(tmp_path: Path) -> None:
    whole = described(written(tmp_path / "all", INFO, calls()))
    masked = described(written(tmp_path / "customer", CUSTOMER, calls()))
    assert whole.rows == masked.rows == dict.fromkeys(SPLITS, 12)
    assert labels_of(whole)[:4] == ["joy", "joy", None, "neutral"]
    assert labels_of(masked)[:4] == [None, "joy", None, "neutral"]
    assert whole.test_digest != masked.test_digest and whole.content_digest() != masked.content_digest()
    assert "predict_roles" not in whole.model_dump(mode="json")


def test_no_turn_is_predicted_where_no_shard_has_roles(tmp_path: Path) -> None:
    assert set(labels_of(described(written(tmp_path / "plain", CUSTOMER, plain())))) == {None}


@pytest.mark.long
def test_validation_counts_labelled_turns(tmp_path: Path) -> None:
    rows = [(split, replace(row, label="angry" if row.role == "agent" else row.label)) for split, row in calls()]
    write_dataset(tmp_path / "calls", CUSTOMER, rows)
    validation = validated(tmp_path / "calls", CUSTOMER)
    assert not [sentence for sentence in validation.failed if "label" in sentence or "role" in sentence]
    assert sum(validation.profile.labels.values()) == 18 and validation.profile.utterances == 36
    assert '<td class="soft">none: context</td><td class="number">6</td>' in render(validation, "calls", "")


@pytest.mark.long
def test_split_without_a_label_is_refused_with_one_sentence(tmp_path: Path) -> None:
    rows = [(split, replace(row, label=None) if split == "dev" else row) for split, row in plain()]
    sentences = [one for one in failed(tmp_path / "dev", INFO, rows) if "label" in one]
    assert len(sentences) == 1
    assert sentences[0].startswith("1 split has no utterance with a label (dev), so all turns there are context: label")


def test_role_that_never_occurs_is_refused_with_one_sentence(tmp_path: Path) -> None:
    typo = INFO.model_copy(update={"predict_roles": ["custmer"]})
    sentences = [one for one in failed(tmp_path / "typo", typo, calls()) if "label" in one or "role" in one]
    assert sentences == [
        "No turn has the role 'custmer' of predict_roles (the roles that occur: 'agent', 'customer'): correct predict_roles in "
        "dataset.yaml, or the column role."
    ]


def test_versions_with_other_labels_and_roles_differ(tmp_path: Path) -> None:
    changed = [
        (split, replace(row, role="guest") if split == "test" and row.turn == 0 else row) for split, row in calls(1)
    ]
    diff = diff_datasets(written(tmp_path / "a", INFO, calls()), written(tmp_path / "b", CUSTOMER, changed))
    assert diff.info == ["predict_roles: none -> customer"]
    assert diff.labels["(no label)"].before == 9 and diff.relabelled["joy -> (no label)"] > 0
    assert diff.role.count == 3 and diff.role.examples[0] == "test/test-0/turn 0 (agent -> guest)"
