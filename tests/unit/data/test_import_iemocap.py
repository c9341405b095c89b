"""IEMOCAP is imported from a small release in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistere.common.errors import DataError, UsageError
from mistere.corpora.importers.iemocap import import_iemocap
from mistere.corpora.published_counts import differences
from mistere.data.dataset import load_info
from tests.unit.data.corpus_files import read, shard_digests, wav

EVALUATION_LINES = [
    "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]",
    "",
    "[8.5000 - 9.1000]\tSes0{n}F_impro01_F001\tsur\t[2.5000, 2.5000, 2.5000]",
    "C-E2:\tNeutral;\t()",
    "[10.2500 - 11.0000]\tSes0{n}F_impro01_F002\thap\t[2.5000, 2.5000, 2.5000]",
    "[9.2000 - 10.1000]\tSes0{n}F_impro01_MXX0\texc\t[2.5000, 2.5000, 2.5000]",
    "[6.2901 - 8.2357]\tSes0{n}F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]",
    "[12.0000 - 13.0000]\tSes0{n}F_impro01_M001\tfru\t[2.5000, 2.5000, 2.5000]",
    "[14.0000 - 15.0000]\tSes0{n}F_impro01_M002\txxx\t[2.5000, 2.5000, 2.5000]",
]
TRANSCRIPT_LINES = [
    "Ses0{n}F_impro01_F000 [006.2901-008.2357]: Excuse me.",
    "Ses0{n}F_impro01_MXX0 [009.2000-010.1000]: It\u0092s [LAUGHTER] fine.",
    "F: (coughs)",
    "Ses0{n}F_impro01_F002 [010.2500-011.0000]: Yeah.",
]


def make_release(root: Path, audio: bool = True) -> Path:
    for number in range(1, 6):
        session = root / f"Session{number}"
        for folder in ("EmoEvaluation", "transcriptions"):
            (session / "dialog" / folder).mkdir(parents=True)
        name = f"Ses0{number}F_impro01"
        evaluation = "\n".join(EVALUATION_LINES).replace("{n}", str(number))
        (session / "dialog" / "EmoEvaluation" / f"{name}.txt").write_text(evaluation)
        (session / "dialog" / "EmoEvaluation" / f"._{name}.txt").write_bytes(b"\0\5\x16\7")
        transcript = "\r\n".join(TRANSCRIPT_LINES).replace("{n}", str(number)).encode("latin-1")
        (session / "dialog" / "transcriptions" / f"{name}.txt").write_bytes(transcript)
        if audio:
            clips = session / "sentences" / "wav" / name
            clips.mkdir(parents=True)
            for index, utterance in enumerate(("F000", "MXX0", "F002", "M001")):
                (clips / f"{name}_{utterance}.wav").write_bytes(wav(100 * number + index))
    return root


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_release(tmp_path_factory.mktemp("iemocap") / "IEMOCAP_full_release")


def test_six_classes_are_imported(tmp_path: Path, release: Path) -> None:
    report = import_iemocap(release.parent, tmp_path / "out", labelled_only=True)
    assert report.counts == report.labelled == {"train": 12, "dev": 4, "test": 4}
    assert report.dialogues == {"train": 3, "dev": 1, "test": 1}
    assert [(u.dialogue_id, u.turn, u.label, u.text, u.speaker) for u in read(tmp_path / "out", "test")] == [
        ("Ses05F_impro01", 0, "neutral", "Excuse me.", "Ses05_F"),
        ("Ses05F_impro01", 1, "excited", "It\u2019s [LAUGHTER] fine.", "Ses05_M"),
        ("Ses05F_impro01", 2, "happy", "Yeah.", "Ses05_F"),
        ("Ses05F_impro01", 3, "frustrated", None, "Ses05_M"),
    ]
    assert [u.audio for u in read(tmp_path / "out", "dev")] == [wav(400 + index) for index in range(4)]
    info = load_info(tmp_path / "out" / "dataset.yaml")
    assert info.labels == ["happy", "sad", "neutral", "angry", "excited", "frustrated"] and info.speaker_disjoint
    assert report.notes == [
        "train and dev: 16 utterances came in, 5810 are published.",
        "test: 4 utterances came in, 1623 are published.",
        "5 dialogues came in, 151 are published.",
        "10 utterances with other labels are left out (sur 5, xxx 5).",
        "5 utterances have no transcript (Ses01F_impro01_M001, Ses02F_impro01_M001, Ses03F_impro01_M001 and 2 more).",
    ]
    import_iemocap(release, tmp_path / "again", labelled_only=True)
    assert shard_digests(tmp_path / "again") == shard_digests(tmp_path / "out")


def test_turns_with_other_labels_are_context(tmp_path: Path, release: Path) -> None:
    report = import_iemocap(release, tmp_path / "out")
    assert report.counts == {"train": 18, "dev": 6, "test": 6} and report.labelled == {"train": 12, "dev": 4, "test": 4}
    assert [(u.turn, u.label, u.text) for u in read(tmp_path / "out", "test")] == [
        (0, "neutral", "Excuse me."),
        (1, None, None),
        (2, "excited", "It\u2019s [LAUGHTER] fine."),
        (3, "happy", "Yeah."),
        (4, "frustrated", None),
        (5, None, None),
    ]
    assert report.notes[:4] == [
        "train and dev: 16 utterances came in, 5810 are published.",
        "test: 4 utterances came in, 1623 are published.",
        "5 dialogues came in, 151 are published.",
        "10 utterances with other labels are context (sur 5, xxx 5).",
    ]


def test_four_classes_dev_session_and_text_only_are_options(tmp_path: Path, release: Path) -> None:
    report = import_iemocap(release, tmp_path / "out", classes=4, dev_session=1, text_only=True, labelled_only=True)
    assert report.counts == {"train": 9, "dev": 3, "test": 3}
    rows = read(tmp_path / "out", "dev")
    assert [(u.dialogue_id, u.turn, u.label) for u in rows] == [
        ("Ses01F_impro01", 0, "neutral"),
        ("Ses01F_impro01", 1, "happy"),
        ("Ses01F_impro01", 2, "happy"),
    ]
    assert all(u.audio is None for u in rows)
    assert load_info(tmp_path / "out" / "dataset.yaml").labels == ["happy", "sad", "neutral", "angry"]
    assert report.notes == ["15 utterances with other labels are left out (fru 5, sur 5, xxx 5)."]


def test_missing_audio_is_noted(tmp_path: Path) -> None:
    source = make_release(tmp_path / "bare", audio=False)
    assert import_iemocap(source, tmp_path / "text").notes[-1] == f"{source} holds no sentences/wav folder: text only."
    source = make_release(tmp_path / "part")
    (source / "Session2" / "sentences" / "wav" / "Ses02F_impro01" / "Ses02F_impro01_F000.wav").unlink()
    note = import_iemocap(source, tmp_path / "out", labelled_only=True).notes[-1]
    assert note == "1 utterance has no audio file and goes without audio (Ses02F_impro01_F000)."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "labels no utterance"),
        ("[1.0 - 2.0]\tSes01F_impro01_F000\tbored\t[1, 1, 1]", "line 1: unknown label 'bored'"),
        ("[1.0 - 2.0]\tsomething\tneu\t[1, 1, 1]", "line 1: 'something' is no utterance's name"),
        ("[1.0 - 2.0]\tSes01F_impro01_F000\tneu\t[1]\n" * 2, "line 2: Ses01F_impro01_F000 is labelled twice"),
        ("\0", "line 1: there is a NUL byte"),
    ],
)
def test_damaged_evaluation_is_rejected_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    source = make_release(tmp_path / "source")
    (source / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        import_iemocap(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_files_are_rejected_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Session1/dialog/EmoEvaluation is missing"):
        import_iemocap(tmp_path, tmp_path / "out")
    source = make_release(tmp_path / "source")
    transcript = source / "Session3" / "dialog" / "transcriptions" / "Ses03F_impro01.txt"
    transcript.unlink()
    with pytest.raises(UsageError, match=r"Ses03F_impro01\.txt is missing"):
        import_iemocap(source, tmp_path / "out")
    transcript.mkdir()
    with pytest.raises(UsageError, match=r"Ses03F_impro01\.txt is missing or no file"):
        import_iemocap(source, tmp_path / "out")


@pytest.mark.parametrize("arguments", [{"classes": 5}, {"dev_session": 5}, {"dev_session": 0}])
def test_option_out_of_range_is_rejected(tmp_path: Path, release: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        import_iemocap(release, tmp_path / "out", **arguments)


def test_published_counts_have_no_difference_to_themselves() -> None:
    assert (
        differences("iemocap", {"train": 5000, "dev": 810, "test": 1623}, {"train": 100, "dev": 20, "test": 31}) == []
    )
    assert differences("mosi", {"train": 1284, "dev": 229, "test": 685}, {"train": 52, "dev": 10, "test": 31}) == [
        "test: 685 utterances came in, 686 are published."
    ]
