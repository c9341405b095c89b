"""Embeddings made elsewhere: read in any order, and refused with a sentence where something is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import UsageError
from pipelines.cli.experiments.imported_embeddings import open_embeddings
from tests.unit.artifacts.embeddings_folder import LABELS, edit, write_embeddings


def test_rows_in_any_order_are_the_same_dialogues(tmp_path: Path) -> None:
    plain = open_embeddings(write_embeddings(tmp_path / "plain"))
    mixed = open_embeddings(write_embeddings(tmp_path / "mixed", shuffled=True))
    assert plain.labels == mixed.labels == LABELS and plain.dimensions == {"speech": 8, "text": 8}
    for split in ("train", "dev", "test"):
        theirs = {dialogue.dialogue_id: dialogue for dialogue in mixed.split(split)}  # type: ignore[arg-type]
        assert len(theirs) == len(plain.split(split))  # type: ignore[arg-type]
        for dialogue in plain.split(split):  # type: ignore[arg-type]
            other = theirs[dialogue.dialogue_id]
            assert dialogue.labels.tolist() == other.labels.tolist()
            for name, rows in plain.read(dialogue).items():
                np.testing.assert_array_equal(rows, mixed.read(other)[name])


def test_whole_numbers_as_labels_and_one_modality(tmp_path: Path) -> None:
    data = open_embeddings(write_embeddings(tmp_path, ("text",), whole_numbers=True))
    assert data.labels == ["0", "1", "2"] and list(data.dimensions) == ["text"]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    first, same = (open_embeddings(write_embeddings(tmp_path / name)).fingerprint() for name in ("a", "b"))
    edit(tmp_path / "b", "label", 0, LABELS[(LABELS.index(str(open_labels(tmp_path / "b")[0])) + 1) % 3])
    assert first == same != open_embeddings(tmp_path / "b").fingerprint()


def open_labels(folder: Path) -> list[str]:
    return pq.read_table(folder / "utterances.parquet")["label"].to_pylist()


def _matrix(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        np.save(folder / "text.npy", change(np.load(folder / "text.npy")))

    return spoil


def _infinite(matrix: np.ndarray) -> np.ndarray:
    matrix[5, 2] = np.inf
    return matrix


def _pickled(folder: Path) -> None:
    np.save(folder / "text.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def _silent(folder: Path) -> None:
    for name in ("speech", "text"):
        matrix = np.load(folder / f"{name}.npy")
        matrix[:1] = np.nan
        np.save(folder / f"{name}.npy", matrix)
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    table["dialogue_id"][0] = "quiet"
    pq.write_table(pa.table(table), folder / "utterances.parquet")


def _no_split(folder: Path) -> None:
    table = pq.read_table(folder / "utterances.parquet").to_pydict()
    table["split"] = ["train" if split == "dev" else split for split in table["split"]]
    pq.write_table(pa.table(table), folder / "utterances.parquet")


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "no table": (lambda f: (f / "utterances.parquet").unlink(), "no such file"),
    "no matrix": (lambda f: [path.unlink() for path in f.glob("*.npy")] and None, "no <modality>.npy"),
    "a table that is none": (
        lambda f: (f / "utterances.parquet").write_bytes(b"PAR0") and None,
        "cannot be read as parquet",
    ),
    "a matrix that is none": (lambda f: (f / "text.npy").write_bytes(b"\x93NUMP") and None, "plain .npy matrix"),
    "a pickle": (_pickled, "plain .npy matrix"),
    "fewer rows": (_matrix(lambda m: m[:-1]), "text.npy has 1.. rows and utterances.parquet 1.."),
    "another type": (_matrix(lambda m: m.astype(np.float64)), "float64; save it as float32"),
    "no width": (_matrix(lambda m: m[:, :0]), "its shape is"),
    "one dimension": (_matrix(lambda m: m[:, 0]), "its shape is"),
    "infinite": (_matrix(_infinite), "row 5 holds an infinite value"),
    "unknown split": (lambda f: edit(f, "split", 3, "validation"), "'validation' in row 3 is none of train, dev, test"),
    "empty split": (_no_split, "the dev split has no dialogue"),
    "label of test only": (lambda f: edit(f, "label", -1, "awe"), "label 'awe' in row 1.. is out of range"),
    "no label": (lambda f: edit(f, "label", 2, None), "label is empty in row 2"),
    "the same turn twice": (lambda f: edit(f, "turn", 1, 0), "dialogue 'd0' has turn 0 twice"),
    "a dialogue in two splits": (lambda f: edit(f, "dialogue_id", -1, "d0"), "'d0' is in train and in test"),
    "a dialogue without input": (_silent, "dialogue 'quiet' has no input:"),
    "a modality's name": (lambda f: (f / "text.npy").rename(f / "my text.npy") and None, "cannot name a modality"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(case: str, tmp_path: Path) -> None:
    spoil, sentence = WRONG[case]
    write_embeddings(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=sentence) as caught:
        open_embeddings(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    assert re.search(r"\.(npy|parquet)|" + re.escape(str(tmp_path)), str(caught.value))


@pytest.mark.parametrize(("row", "value"), [(-1, 7), (0, -1)])
def test_whole_numbers_out_of_range(row: int, value: int, tmp_path: Path) -> None:
    write_embeddings(tmp_path, whole_numbers=True)
    edit(tmp_path, "label", row, value)
    with pytest.raises(UsageError, match=f"label {value} in row .* is out of range"):
        open_embeddings(tmp_path)


@pytest.mark.parametrize("column", ["split", "dialogue_id", "turn", "label"])
def test_a_missing_column_is_named(column: str, tmp_path: Path) -> None:
    write_embeddings(tmp_path, columns={column: None})
    with pytest.raises(UsageError, match=f"the column {column} is missing"):
        open_embeddings(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_embeddings(tmp_path / "nowhere")
