"""Importers take feature files as modalities of the dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistere.common.errors import DataError, UsageError
from mistere.corpora.importers.iemocap import import_iemocap
from mistere.corpora.importers.mosi import import_mosi
from mistere.corpora.importers.table import import_table
from mistere.data.dataset import load_info
from tests.unit.data import test_import_iemocap, test_import_mosi
from tests.unit.data.corpus_files import read


def cells(directory: Path, split: str, modality: str) -> list[list[float] | None]:
    return [
        None if (cell := row.others.get(modality)) is None else cell.tolist()
        for row in read(directory, split)  # type: ignore[arg-type]
    ]


def test_mosi_takes_features_by_segment_and_by_time(tmp_path: Path) -> None:
    source = test_import_mosi.make_release(tmp_path / "source", audio=False)
    video = test_import_mosi.TRAIN
    voice, face = tmp_path / "voice.csv", tmp_path / "face.npz"
    # Segments 1, 2 and 10 of the video begin at 1, 0 and 2 seconds.
    voice.write_text(f"name,start,end,pitch\n{video},0,1,100\n{video},1,2,200\n{video},2,3,300\n")
    np.savez(face, **{f"{video}[0]": np.array([1.0, 2.0]), f"{video}_2": np.array([[3.0, 4.0], [5.0, 6.0]])})
    report = import_mosi(source, tmp_path / "out", features={"voice": voice, "face": face})
    assert load_info(tmp_path / "out" / "dataset.yaml").modalities == {"voice": "vector", "face": "vector"}
    assert cells(tmp_path / "out", "train", "voice") == [[200.0], [100.0], [300.0]]
    assert cells(tmp_path / "out", "train", "face") == [[1.0, 2.0], [4.0, 5.0], None]
    assert "face: 2 vectors of 2 numbers." in report.notes
    assert any(note.startswith("face: 3 utterances have no vector") for note in report.notes)
    dropped = import_mosi(source, tmp_path / "dropped", zero="drop", features={"face": face})
    assert cells(tmp_path / "dropped", "train", "face") == [[4.0, 5.0], None], "the SDK counts dropped segments too"
    assert dropped.counts["train"] == 2


def test_iemocap_takes_features_by_utterance_and_by_time(tmp_path: Path) -> None:
    release = test_import_iemocap.make_release(tmp_path / "IEMOCAP_full_release", audio=False)
    rows = [f"Ses0{n}F_impro01,{second},{second + 1},{second}" for n in range(1, 6) for second in range(16)]
    (tmp_path / "prosody.csv").write_text("name,start,end,energy\n" + "\n".join(rows))
    import_iemocap(release, tmp_path / "out", features={"prosody": tmp_path / "prosody.csv"})
    # From 6.29 to 8.24, 8.5 to 9.1 (context), 9.2 to 10.1, 10.25 to 11, 12 to 13, 14 to 15 (context) seconds.
    assert cells(tmp_path / "out", "test", "prosody") == [[6.5], [8.0], [9.0], [10.0], [12.0], [14.0]]


def make_table(folder: Path) -> Path:
    rows = [f"d{dialogue},{turn},{'ab'[turn]},hello {turn}" for dialogue in range(3) for turn in range(2)]
    (folder / "table.csv").write_text("dialogue_id,turn,label,text\n" + "\n".join(rows))
    return folder / "table.csv"


def test_tables_take_features_by_dialogue_and_turn(tmp_path: Path) -> None:
    source, face = make_table(tmp_path), tmp_path / "face.csv"
    face.write_text(
        "dialogue_id,turn,a,b\n" + "\n".join(f"d{n},{turn},{n},{turn}" for n in range(3) for turn in (0, 1))
    )
    import_table(source, tmp_path / "out", splits=(1, 0, 0), features={"face": face})
    assert sorted(map(str, cells(tmp_path / "out", "train", "face"))) == [
        f"[{n}.0, {t}.0]" for n in range(3) for t in (0, 1)
    ]
    batch = tmp_path / "batch.csv"
    batch.write_text("dialogue_id,turn,label,text\nd9,0,a,hello\n")
    np.savez(tmp_path / "face.npz", d9_0=np.array([7.0, 8.0]))
    import_table(batch, tmp_path / "more", base=tmp_path / "out", features={"face": tmp_path / "face.npz"})
    assert [7.0, 8.0] in cells(tmp_path / "more", "train", "face") and len(
        cells(tmp_path / "more", "train", "face")
    ) == 7


def test_features_that_do_not_fit_leave_no_dataset(tmp_path: Path) -> None:
    source = make_table(tmp_path)
    np.savez(tmp_path / "face.npz", other_0=np.zeros(3))
    with pytest.raises(DataError, match="has no features of any utterance: its names are 'other_0'"):
        import_table(source, tmp_path / "out", features={"face": tmp_path / "face.npz"})
    (tmp_path / "face.pkl").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a pickle"):
        import_table(source, tmp_path / "out", features={"face": tmp_path / "face.pkl"})
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
