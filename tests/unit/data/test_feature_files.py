"""Feature files of each kind give one vector for each utterance; damaged, foreign and hostile ones are refused in a sentence."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistere.common.errors import DataError, MissingPackageError, UsageError
from mistere.corpora.features import pickles
from mistere.corpora.features.conversion import convert_pickle, describe_pickle
from mistere.corpora.features.option import Features, parse_features
from mistere.corpora.features.pickles import read_pickle
from mistere.corpora.features.span import Span

ONE, TWO = Span(("v_1", "v[0]"), "v", 0.0, 1.0), Span(("v_2", "v[1]"), "v", 1.0, 2.0)


def csv(path: Path) -> Path:
    path.write_text("utterance;frameTime;a;b\n'v_1';0.0;1;2\n'v_1';0.1;3;nan\n'v_2';0;5;-inf\n")
    return path


def csv_of_files(path: Path) -> Path:
    path.write_text("file,start,end,a,b\nclips/v_1.wav,0 days,0 days,2,2\nclips/v_2.wav,0 days,0 days,5,nan\n")
    return path


def csv_of_dialogues(path: Path) -> Path:
    path.write_text("name,start,end,a,b\nv,0,0.5,1,2\nv,0.5,1,3,2\nv,1.0,1.5,5,nan\n")
    return path


def npz_table(path: Path) -> Path:
    np.savez(path, names=np.array(["v_1", "v_1", "v_2"]), vectors=np.array([[1, 2], [3, 2], [5, np.nan]]))
    return path


def npz_of_arrays(path: Path) -> Path:
    np.savez(path, v_1=np.array([[1, 2], [3, 2]]), v_2=np.array([5, -np.inf]))
    return path


def npz_with_times(path: Path) -> Path:
    times = {"start": np.array([0, 0.5, 1]), "end": np.array([0.5, 1, 2])}
    np.savez(path, names=np.array([b"v", b"v", b"v"]), vectors=np.array([[1, 2], [3, 2], [5, np.nan]]), **times)
    return path


def sequences(path: Path, aligned: bool = False) -> Path:
    h5py = pytest.importorskip("h5py")
    segments = {
        "v[0]": ([[1, 2], [3, 2]], [[0, 1], [0, 1]]),
        "v[1]": ([[5, -np.inf]], [[1, 2]]),
    }
    if not aligned:
        segments = {"v": ([[1, 2], [3, 2], [5, np.nan]], [[0, 0.5], [0.5, 1], [1, 2]])}
    with h5py.File(path, "w") as file:
        for name, (features, intervals) in segments.items():
            group = file.create_group(f"FACET/data/{name}")
            group.create_dataset("features", data=np.array(features, np.float32), compression="gzip")
            group.create_dataset("intervals", data=np.array(intervals))
        file.create_group("FACET/metadata")
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (csv, "a.csv"),
        (csv_of_files, "a.csv"),
        (csv_of_dialogues, "a.csv"),
        (npz_table, "a.npz"),
        (npz_of_arrays, "a.npz"),
        (npz_with_times, "a.npz"),
        (sequences, "a.csd"),
        (lambda path: sequences(path, aligned=True), "a.h5"),
    ],
)
def test_each_file_gives_the_mean_of_an_utterance(make: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    features = Features({"face": make(tmp_path / name)})
    assert features.kinds == {"face": "vector"}
    first, second = features.of(ONE)["face"], features.of(TWO)["face"]
    assert first.dtype == np.float32 and first.tolist() == [2, 2] and second.tolist() == [5, 0]
    assert features.of(Span(("w_1",), "w", 0, 1)) == {}
    features.finish()
    assert features.notes() == [
        "face: 2 vectors of 2 numbers.",
        "face: 1 utterance has no vector (w_1).",
        "face: 1 number is not finite in all frames of the utterance and set to 0.",
    ]


def test_features_are_named_by_the_option() -> None:
    assert parse_features(["face=a.csd", "prosody=b.npz"]) == {"face": Path("a.csd"), "prosody": Path("b.npz")}
    for typed, message in (
        ("face", "write it as NAME=FILE"),
        ("Face=a.csd", "cannot be the name of a modality"),
        ("text=a.csd", "cannot be the name of a modality"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_features([typed])
    with pytest.raises(UsageError, match="is given twice"):
        parse_features(["face=a.csd", "face=b.csd"])


def other_width(path: Path) -> Path:
    np.savez(path, v_1=np.zeros(3), v_2=np.zeros(4))
    return path


def without_times(path: Path) -> Path:
    np.savez(path, v=np.zeros((5, 3)))
    return path


def with_objects(path: Path) -> Path:
    np.savez(path, v_1=np.array([{"a": 1}], dtype=object))
    return path


def of_texts(path: Path) -> Path:
    np.savez(path, v_1=np.array(["a"]))
    return path


def unequal(path: Path) -> Path:
    np.savez(path, names=np.array(["v_1"]), vectors=np.zeros((2, 3)))
    return path


def bomb(path: Path) -> Path:
    """A header that promises more memory than any file of features needs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(117) + b"\n"
        archive.writestr("v_1.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return path


def text(content: str) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_text(content)
        return path

    return write


def test_a_missing_column_of_names_is_a_usage_error(tmp_path: Path) -> None:
    path = text("a,b\n1,2\n")(tmp_path / "a.csv")
    with pytest.raises(
        UsageError, match="no column with the utterances' names: call it utterance, or add dialogue_id and turn"
    ):
        Features({"face": path})


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (other_width, "a.npz", "has 4 numbers, and the first one 3"),
        (without_times, "a.npz", "only the dialogue v, with no times of its frames"),
        (with_objects, "a.npz", "Python objects, which are never unpickled"),
        (of_texts, "a.npz", "values, not numbers"),
        (unequal, "a.npz", "1 names for 2 vectors"),
        (bomb, "a.npz", "takes more than 2048 MiB"),
        (text("no zip"), "a.npz", "is no npz file"),
        (text("utterance,a\nv_1,one\n"), "a.csv", "line 2: a is 'one', not a number"),
        (text("utterance,a\nv_1\n"), "a.csv", "1 fields, where the header has 2"),
        (text("utterance,a\n"), "a.csv", "a header and no rows"),
        (text("utterance\nv_1\n"), "a.csv", "0 columns of features"),
        (text("utterance,a\nx_1,1\n"), "a.csv", "has no features of any utterance: its names are 'x_1'"),
    ],
)
def test_bad_files_are_refused(make: Callable[[Path], Path], name: str, message: str, tmp_path: Path) -> None:
    path = make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        features = Features({"face": path})
        features.of(ONE)
        features.of(TWO)
        features.finish()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pkl", "a pickle, which could run any program .* `mistere data convert-pickle"),
        ("a.mat", "none of the feature files"),
        ("missing.npz", "is missing or no file"),
    ],
)
def test_files_that_are_not_read_are_named(name: str, message: str, tmp_path: Path) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        Features({"face": tmp_path / name})


def test_damaged_and_foreign_sequences_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "a.csd").write_bytes(b"\x89HDF\r\n\x1a\nshort")
    with pytest.raises(DataError, match="is no readable HDF5 file"):
        Features({"face": tmp_path / "a.csd"})
    with h5py.File(tmp_path / "b.csd", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(DataError, match="has no group NAME/data"):
        Features({"face": tmp_path / "b.csd"})
    with h5py.File(tmp_path / "c.csd", "w") as file:
        data = file.create_group("F/data")
        data["v_1"] = h5py.ExternalLink("b.csd", "/x")
        data.create_group("v_2").create_dataset("features", (2,), "f4", external=[("/etc/hostname", 0, 8)])
    features = Features({"face": tmp_path / "c.csd"})
    with pytest.raises(DataError, match="is a link to somewhere else"):
        features.of(ONE)
    with pytest.raises(DataError, match="lies outside of the file"):
        features.of(TWO)


def test_sequences_need_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "a.csd").write_bytes(b"")
    with pytest.raises(MissingPackageError, match=r"needs h5py, .* `pip install -e .\[hdf5\]`"):
        Features({"face": tmp_path / "a.csd"})


CONTENT = {
    "train": {"id": ["v$_$1", "v$_$2"], "vision": np.array([[[1, 2], [3, 4], [0, 0]], [[5, 6], [0, 0], [0, 0]]])},
    "test": {"id": ["w$_$1"], "vision": np.ones((1, 3, 2))},
    "list": [1, "a", None],
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "bytes": np.array([b"x", b"yy"]),
    "number": np.float32(2.5),
    "ordered": OrderedDict(a=b"\xff"),
    "objects": np.array(["a", 1], dtype=object),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol))
    value = read_pickle(path)
    assert np.array_equal(value["train"]["vision"], CONTENT["train"]["vision"])
    assert value["train"]["id"] == ["v$_$1", "v$_$2"] and value["list"] == [1, "a", None]
    assert value["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]] and value["big"].tolist() == [0, 1, 2]
    assert value["bytes"].tolist() == [b"x", b"yy"] and value["number"] == 2.5
    assert value["ordered"] == {"a": b"\xff"} and value["objects"] == ["a", 1]


def test_features_of_a_pickle_are_converted(tmp_path: Path) -> None:
    source, target = tmp_path / "a.pkl", tmp_path / "a.npz"
    source.write_bytes(pickle.dumps(CONTENT))
    assert "train/vision: int64 [2, 3, 2]" in describe_pickle(source)
    assert convert_pickle(source, target, "*/id", "*/vision") == f"{target}: 3 vectors of 2 numbers"
    features = Features({"face": target})
    assert features.of(ONE)["face"].tolist() == [2, 3], "frames of zeros pad"
    assert features.of(TWO)["face"].tolist() == [5, 6]
    with pytest.raises(UsageError, match=r"exists: name a new \.npz file"):
        convert_pickle(source, target, "*/id", "*/vision")
    for names, vectors, message in (("*/name", "*/vision", "selects nothing"), ("train/id", "*/vision", "same parts")):
        with pytest.raises(UsageError, match=message):
            convert_pickle(source, tmp_path / "b.npz", names, vectors)
    with pytest.raises(DataError, match="2 names for 1 vectors"):
        convert_pickle(source, tmp_path / "b.npz", "bytes", "test/vision")
    assert not (tmp_path / "b.npz").exists()


class RunsAProgram:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_hostile_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_NODES", 50_000)  # instead of millions, which take seconds
    path, marker = tmp_path / "a.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"train": RunsAProgram(marker)}))
    with pytest.raises(DataError, match=r"refers to 'posix.system': only dicts, lists"):
        read_pickle(path)
    assert not marker.exists()
    nested: list[Any] = []
    for _ in range(30):
        nested = [nested, nested]  # 2^30 lists in 30
    looped: list[Any] = []
    looped.append(looped)
    for value, message in ((looped, "refers to itself"), (nested, "holds more values"), ({1, 2}, "uses the operation")):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(DataError, match=message):
            read_pickle(path)
    for content in (b"", b"garbage", pickle.dumps(CONTENT)[:-20], b"\x80\x04]\x94K\x01K\x02s."):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no pickle, or is damaged"):
            read_pickle(path)
