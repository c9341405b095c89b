"""Imported embeddings are read in any row order; invalid ones are rejected with one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import UsageError
from mistere.model.embeddings import UNLABELLED
from pipelines.cli.experiments.imported_embeddings import open_embeddings
from tests.unit.artifacts.embeddings_folder import LABELS, edit, write_embeddings


def test_row_order_does_not_change_the_dialogues(tmp_path: Path) -> None:
    ordered = open_embeddings(write_embeddings(tmp_path / "plain"))
    shuffled = open_embeddings(write_embeddings(tmp_path / "mixed", shuffled=True))
    assert ordered.labels == shuffled.labels == LABELS and ordered.dimensions == {"speech": 8, "text": 8}
    for split in ("train", "dev", "test"):
        shuffled_dialogues = {dialogue.dialogue_id: dialogue for dialogue in shuffled.split(split)}  # type: ignore[arg-type]
        assert len(shuffled_dialogues) == len(ordered.split(split))  # type: ignore[arg-type]
        for dialogue in ordered.split(split):  # type: ignore[arg-type]
            other = shuffled_dialogues[dialogue.dialogue_id]
            assert dialogue.labels.tolist() == other.labels.tolist()
            for name, rows in ordered.read(dialogue).items():
                np.testing.assert_array_equal(rows, shuffled.read(other)[name])


def test_integer_labels_and_one_modality_are_read(tmp_path: Path) -> None:
    data = open_embeddings(write_embeddings(tmp_path, ("text",), whole_numbers=True))
    assert data.labels == ["0", "1", "2"] and list(data.dimensions) == ["text"]


def test_fingerprint_depends_on_the_content_only(tmp_path: Path) -> None:
    first, same = (open_embeddings(write_embeddings(tmp_path / name)).fingerprint() for name in ("a", "b"))
    edit(tmp_path / "b", "label", 0, LABELS[(LABELS.index(str(read_labels(tmp_path / "b")[0])) + 1) % 3])
    assert first == same != open_embeddings(tmp_path / "b").fingerprint()


def read_labels(folder: Path) -> list[str]:
    return pq.read_table(folder / "utterances.parquet")["label"].to_pylist()


def _change_matrix(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def corrupt(folder: Path) -> None:
        np.save(folder / "text.npy", change(np.load(folder / "text.npy")))

    return corrupt


def _with_infinity(matrix: np.ndarray) -> np.ndarray:
    matrix[5, 2] = np.inf
    return matrix


def _write_pickle(folder: Path) -> None:
    np.save(folder / "text.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _clear_first_dialogue(folder: Path) -> None:
    for name in ("speech", "text"):
        matrix = np.load(folder / f"{name}.npy")
        matrix[:1] = np.nan
        np.save(folder / f"{name}.npy", matrix)
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    table["dialogue_id"][0] = "quiet"
    pq.write_table(pa.table(table), folder / "utterances.parquet")


def _remove_dev_split(folder: Path) -> None:
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    table["split"] = ["train" if split == "dev" else split for split in table["split"]]
    pq.write_table(pa.table(table), folder / "utterances.parquet")


def _clear_dev_labels(folder: Path) -> None:
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    labels = zip(table["label"], table["split"], strict=True)
    table["label"] = [None if split == "dev" else label for label, split in labels]
    pq.write_table(pa.table(table), folder / "utterances.parquet")


INVALID_FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing table": (lambda f: (f / "utterances.parquet").unlink(), "no such file"),
    "missing matrices": (lambda f: [path.unlink() for path in f.glob("*.npy")] and None, "no <modality>.npy"),
    "invalid parquet": (
        lambda f: (f / "utterances.parquet").write_bytes(b"PAR0") and None,
        "cannot be read as parquet",
    ),
    "invalid npy": (lambda f: (f / "text.npy").write_bytes(b"\x93NUMP") and None, "plain .npy matrix"),
    "pickled matrix": (_write_pickle, "plain .npy matrix"),
    "too few rows": (_change_matrix(lambda m: m[:-1]), "text.npy has 1.. rows and utterances.parquet 1.."),
    "wrong dtype": (_change_matrix(lambda m: m.astype(np.float64)), "float64; save it as float32"),
    "zero columns": (_change_matrix(lambda m: m[:, :0]), "its shape is"),
    "one dimension": (_change_matrix(lambda m: m[:, 0]), "its shape is"),
    "infinite value": (_change_matrix(_with_infinity), "row 5 holds an infinite value"),
    "unknown split": (lambda f: edit(f, "split", 3, "validation"), "'validation' in row 3 is none of train, dev, test"),
    "empty split": (_remove_dev_split, "the dev split has no dialogue"),
    "label only in test": (lambda f: edit(f, "label", -1, "awe"), "label 'awe' in row 1.. is out of range"),
    "dev without labels": (_clear_dev_labels, "no utterance of dev has a label"),
    "missing split": (lambda f: edit(f, "split", 2, None), "split is empty in row 2"),
    "duplicate turn": (lambda f: edit(f, "turn", 1, 0), "dialogue 'd0' has turn 0 twice"),
    "dialogue in two splits": (lambda f: edit(f, "dialogue_id", -1, "d0"), "'d0' is in train and in test"),
    "dialogue without input": (_clear_first_dialogue, "dialogue 'quiet' has no input:"),
    "invalid modality name": (lambda f: (f / "text.npy").rename(f / "my text.npy") and None, "cannot name a modality"),
}


@pytest.mark.parametrize("case", INVALID_FOLDERS)
def test_invalid_folder_is_rejected_with_one_sentence(case: str, tmp_path: Path) -> None:
    corrupt, message = INVALID_FOLDERS[case]
    write_embeddings(tmp_path)
    corrupt(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        open_embeddings(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert re.search(r"\.(npy|parquet)|" + re.escape(str(tmp_path)), str(caught.value))


@pytest.mark.parametrize(("whole_numbers", "value"), [(False, None), (True, None), (True, -1)])
def test_turn_without_a_label_is_context(whole_numbers: bool, value: object, tmp_path: Path) -> None:
    whole = open_embeddings(write_embeddings(tmp_path, whole_numbers=whole_numbers))
    edit(tmp_path, "label", 1, value)
    data = open_embeddings(tmp_path)
    assert data.labels == whole.labels
    before, after = whole.split("train")[0], data.split("train")[0]
    assert after.labels.tolist() == [before.labels[0], UNLABELLED, *before.labels[2:]]
    assert after.labelled.tolist() == [turn != 1 for turn in range(len(before))]


@pytest.mark.parametrize(("row", "value"), [(-1, 7), (0, -2)])
def test_integer_label_out_of_range_is_rejected(row: int, value: int, tmp_path: Path) -> None:
    write_embeddings(tmp_path, whole_numbers=True)
    edit(tmp_path, "label", row, value)
    with pytest.raises(UsageError, match=f"label {value} in row .* is out of range"):
        open_embeddings(tmp_path)


@pytest.mark.parametrize("column", ["split", "dialogue_id", "turn", "label"])
def test_missing_column_is_named(column: str, tmp_path: Path) -> None:
    write_embeddings(tmp_path, columns={column: None})
    with pytest.raises(UsageError, match=f"the column {column} is missing"):
        open_embeddings(tmp_path)


def test_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_embeddings(tmp_path / "nowhere")
