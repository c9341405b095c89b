"""CMU-MOSI is imported from small releases in each published layout."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mistere.common.errors import DataError, UsageError
from mistere.corpora.importers.mosi import import_mosi
from mistere.corpora.mosi_folds import FOLDS
from mistere.data.dataset import load_info
from tests.unit.data.corpus_files import read, shard_digests, wav

TRAIN, DEV, TEST = "2iD-tVS8NPw", "_dI--eQ6qVU", "c7UH_rxdZv4"
SCORES = [(TRAIN, 2, -1.4), (TRAIN, 1, 0.0), (TRAIN, 10, 2.6), (DEV, 1, -3), (TEST, 1, 0.2), ("stranger", 1, 1)]
COUNT_NOTES = [
    "train: 3 utterances came in, 1284 are published.",
    "dev: 1 utterance came in, 229 are published.",
    "test: 1 utterance came in, 686 are published.",
    "3 videos came in, 93 are published.",
    "1 videos are in none of the standard folds and are left out (stranger).",
]


def make_release(root: Path, table: str = "", audio: bool = True) -> Path:
    for folder in ("Transcript/Segmented", "Labels", *(["Audio/WAV_16000/Segmented"] if audio else [])):
        (root / "Raw" / folder).mkdir(parents=True)
    rows = [f"{start},{start + 1}.5,{video},{number},{score}" for start, (video, number, score) in enumerate(SCORES)]
    (root / "Raw" / "Labels" / "OpinionLevelSentiment.csv").write_text(table or "\n".join(rows))
    for video in {video for video, _, _ in SCORES}:
        lines = "".join(f"{number}_DELIM_SAID, {number}\n" for name, number, _ in SCORES if name == video)
        (root / "Raw" / "Transcript" / "Segmented" / f"{video}.annotprocessed").write_text(lines + "\n")
    for index, (video, number, _) in enumerate(SCORES if audio else []):
        clip = root / "Raw" / "Audio" / "WAV_16000" / "Segmented" / f"{video}_{number}.wav"
        clip.write_bytes(wav(100 + index))
    return root


def test_folds_have_the_standard_sizes() -> None:
    assert Counter(FOLDS.values()) == {"train": 52, "dev": 10, "test": 31}


def test_raw_release_is_imported(tmp_path: Path) -> None:
    source = make_release(tmp_path / "source")
    report = import_mosi(source, tmp_path / "out")
    assert report.counts == {"train": 3, "dev": 1, "test": 1}
    assert report.dialogues == {"train": 1, "dev": 1, "test": 1}
    rows = read(tmp_path / "out", "train")
    assert [(u.dialogue_id, u.turn, u.label, u.text, u.speaker) for u in rows] == [
        (TRAIN, 0, "positive", "SAID, 1", TRAIN),
        (TRAIN, 1, "negative", "SAID, 2", TRAIN),
        (TRAIN, 2, "positive", "SAID, 10", TRAIN),
    ]
    assert [u.audio for u in rows] == [wav(101), wav(100), wav(102)]
    info = load_info(tmp_path / "out" / "dataset.yaml")
    assert info.labels == ["negative", "positive"] and not info.speaker_disjoint
    assert "0 counts as positive" in info.description
    assert report.notes == [*COUNT_NOTES, "1 segments have a score of exactly 0: 0 counts as positive."]
    import_mosi(source / "Raw", tmp_path / "again")
    assert shard_digests(tmp_path / "again") == shard_digests(tmp_path / "out")


def test_zero_scores_are_dropped_and_text_only_is_noted(tmp_path: Path) -> None:
    source = make_release(tmp_path / "source", audio=False)
    report = import_mosi(source, tmp_path / "out", zero="drop")
    assert [(u.turn, u.text) for u in read(tmp_path / "out", "train")] == [(0, "SAID, 2"), (1, "SAID, 10")]
    assert "segments of score 0 are left out; " not in load_info(tmp_path / "out" / "dataset.yaml").description
    assert "segments of score 0 are left out. Text only." in load_info(tmp_path / "out" / "dataset.yaml").description
    assert report.notes[-1].endswith("text only.")
    assert "text only" not in str(import_mosi(source, tmp_path / "text", text_only=True).notes)


def test_label_table_with_texts_and_clips_is_imported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "Raw" / TEST).mkdir(parents=True)
    (source / "Raw" / TEST / "3.mp4").write_bytes(wav(300))
    header = "video_id,clip_id,text,label,label_T,annotation,mode"
    rows = [f'{TEST},3,"WELL, YES",1.8,,Positive,test', f"{TRAIN},1,,-1,,Negative,train"]
    (source / "label.csv").write_text("\n".join([header, *rows, ""]))
    report = import_mosi(source, tmp_path / "out")
    (row,) = read(tmp_path / "out", "test")
    assert (row.text, row.label, row.audio) == ("WELL, YES", "positive", wav(300))
    assert report.notes[-2:] == [
        f"1 segments have no transcript ({TRAIN}_1).",
        f"1 utterance has no audio file and goes without audio ({TRAIN}_1).",
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (f"0,1,{TRAIN},1,x", "line 1: the score is 'x', not a number from -3 to 3"),
        (f"0,1,{TRAIN},1,nan", "the score is 'nan'"),
        (f"{TRAIN},1,7", "the score is '7'"),
        (f"{TRAIN},one,1", "line 1: the segment is 'one', not a whole number"),
        (f"{TRAIN},1,1\n{TRAIN},1,2", "line 2: this video already has a segment 1"),
        (f"{TRAIN},1,1\n{TRAIN},1", "line 2: 2 fields, where the first line has 3"),
        (f"{TRAIN},1", "line 1: 2 fields; 5 .* or 3 are expected"),
        ("video_id,label\na,1", "lacks a column for the segment"),
        ("video_id,clip_id,label\n", "holds no scores"),
        (f"{TRAIN},1,\0", "line 1: there is a NUL byte"),
        ("stranger,1,1", "nothing is left to import"),
    ],
)
def test_damaged_score_table_is_rejected_with_its_line(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_mosi(make_release(tmp_path / "source", table), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_table_invalid_option_and_damaged_transcript_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no table of scores"):
        import_mosi(tmp_path, tmp_path / "out")
    source = make_release(tmp_path / "source")
    invalid_zero: Any = "negative"
    with pytest.raises(UsageError, match="zero is 'negative'"):
        import_mosi(source, tmp_path / "out", zero=invalid_zero)
    (source / "Raw" / "Transcript" / "Segmented" / f"{DEV}.annotprocessed").write_text("1 SAID")
    with pytest.raises(DataError, match=r"annotprocessed, line 1: `<segment>_DELIM_<text>` is expected"):
        import_mosi(source, tmp_path / "out")
