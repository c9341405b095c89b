"""Custom tables are imported from each file format, with splits, audio and a base dataset; hostile rows are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import DataError, MistereError, UsageError
from mistere.common.splits import SPLITS
from mistere.corpora.importers.table import import_table
from mistere.data.dataset import load_info, schema
from tests.unit.data.corpus_files import read, shard_digests, wav

ROWS: list[dict[str, Any]] = [
    {"dialogue_id": "b", "turn": 3, "text": "Third, “quoted”", "label": "joy", "speaker": "x", "split": "train"},
    {"dialogue_id": "b", "turn": 1, "text": "First", "label": "anger", "speaker": "y", "split": "train"},
    {"dialogue_id": "a", "turn": 0, "text": "Alone", "label": "joy", "speaker": "z", "split": "validation"},
    {"dialogue_id": "c", "turn": 0, "text": None, "label": "fear", "speaker": "w", "split": "test"},
]


def make_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        quoted = [delimiter.join('"' + str("" if value is None else value) + '"' for value in line) for line in lines]
        path.write_text("\n".join(quoted), encoding="utf-8-sig")
    return path


def dialogues_of(directory: Path) -> dict[str, str]:
    return {utterance.dialogue_id: split for split in SPLITS for utterance in read(directory, split)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_table_formats_give_the_same_dataset(tmp_path: Path, suffix: str) -> None:
    rows = [{**row, "problem": "ignored"} for row in ROWS]
    report = import_table(make_table(tmp_path / f"mine{suffix}", rows), tmp_path / "out", licence="mine")
    assert report.counts == {"train": 2, "dev": 1, "test": 1} == {**report.dialogues, "train": 2}
    assert report.notes == [
        "Columns that are not imported: problem.",
        "1 dialogue does not number the turns from 0 without gaps: they are numbered again.",
    ]
    assert [(u.dialogue_id, u.turn, u.text, u.label, u.speaker) for u in read(tmp_path / "out", "train")] == [
        ("b", 0, "First", "anger", "y"),
        ("b", 1, "Third, “quoted”", "joy", "x"),
    ]
    assert read(tmp_path / "out", "test")[0].text is None
    info = load_info(tmp_path / "out" / "dataset.yaml")
    assert (info.name, info.labels, info.licence) == ("mine", ["anger", "fear", "joy"], "mine")
    assert info.speaker_disjoint and info.splits == "The table's own."
    import_table(make_table(tmp_path / "mine.jsonl", ROWS), tmp_path / "again", licence="mine")
    again, out = shard_digests(tmp_path / "again"), shard_digests(tmp_path / "out")
    assert {name: again[name] for name in again if "parquet" in name} == {
        name: out[name] for name in out if "parquet" in name
    }


def test_column_names_labels_and_row_order_are_kept(tmp_path: Path) -> None:
    rows = [{"talk": number // 3, "utterance": f"line {number}", "emotion": number % 11} for number in range(33)]
    source = make_table(tmp_path / "mine.parquet", rows)
    columns = {"dialogue_id": "talk", "text": "utterance", "label": "emotion"}
    import_table(source, tmp_path / "out", columns=columns, name="mine", language="de")
    info = load_info(tmp_path / "out" / "dataset.yaml")
    assert info.labels == [str(number) for number in range(11)] and info.language == "de" and not info.speaker_disjoint
    assert (
        info.splits
        == "By whole dialogues, 80 % / 10 % / 10 %, with similar shares of labels and modalities, from --seed 0."
    )
    assert [u.text for u in read(tmp_path / "out", "train")][:3] == ["line 0", "line 1", "line 2"]
    named = [f"emotion {number}" for number in range(11)]
    import_table(source, tmp_path / "named", columns=columns, labels=named)
    assert {u.label for split in SPLITS for u in read(tmp_path / "named", split)} == set(named)


def test_splits_consist_of_whole_dialogues(tmp_path: Path) -> None:
    rows = [{"dialogue_id": f"d{number // 2}", "text": "Hi", "label": "ab"[number % 2]} for number in range(40)]
    source = make_table(tmp_path / "mine.csv", rows)
    report = import_table(source, tmp_path / "out", seed=1)
    assert report.dialogues == {"train": 16, "dev": 2, "test": 2} and report.notes == []
    import_table(source, tmp_path / "again", seed=1)
    assert shard_digests(tmp_path / "again") == shard_digests(tmp_path / "out")
    import_table(source, tmp_path / "other", seed=2)
    assert dialogues_of(tmp_path / "other") != dialogues_of(tmp_path / "out")
    few = import_table(make_table(tmp_path / "few.csv", rows[:6]), tmp_path / "few")
    assert few.dialogues == {"train": 1, "dev": 1, "test": 1}
    two = import_table(source, tmp_path / "two", splits=(0.5, 0.5, 0))
    assert two.dialogues == {"train": 10, "dev": 10} and two.notes == [
        "No dialogue is in test: training needs one there."
    ]


def test_splits_separate_speakers_when_possible(tmp_path: Path) -> None:
    rows = [
        {
            "dialogue_id": f"d{number}",
            "text": "Hi",
            "label": "ab"[turn],
            "speaker": f"s{number // 5}-{(number + turn) % 3}",
        }
        for number in range(60)
        for turn in range(2)
    ]
    report = import_table(make_table(tmp_path / "mine.csv", rows), tmp_path / "out")
    speakers = [{u.speaker for u in read(tmp_path / "out", split)} for split in SPLITS]
    assert (
        all(speakers)
        and not speakers[0] & speakers[1]
        and not speakers[0] & speakers[2]
        and not speakers[1] & speakers[2]
    )
    info = load_info(tmp_path / "out" / "dataset.yaml")
    assert info.speaker_disjoint and info.splits.endswith("; no speaker is in two splits.") and report.notes == []

    mixed = [{**row, "speaker": "everywhere" if row["label"] == "a" else row["speaker"]} for row in rows]
    report = import_table(make_table(tmp_path / "mixed.csv", mixed), tmp_path / "mixed")
    assert not load_info(tmp_path / "mixed" / "dataset.yaml").speaker_disjoint
    assert report.notes == ["The speakers are too mixed to keep them apart: some are in several splits, or may be."]


def audio_rows(**audio: object) -> list[dict[str, Any]]:
    return [
        {"dialogue_id": name, "text": name, "label": "ab"[index % 2], "audio": value}
        for index, (name, value) in enumerate(audio.items())
    ]


def test_audio_folder_supplies_the_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "-one.wav").write_bytes(wav(100))
    (folder / "empty.wav").write_bytes(b"")
    source = make_table(tmp_path / "mine.csv", audio_rows(a="deep/-one.wav", b="", c="gone.wav", d="empty.wav"))
    with pytest.raises(
        UsageError, match=r"mine\.csv, line 4: there is no audio file .*gone\.wav.*--audio.*--missing-audio missing"
    ):
        import_table(source, tmp_path / "out", audio=folder)
    with pytest.raises(UsageError, match=r"line 2: audio 'deep' is a folder"):
        import_table(make_table(tmp_path / "folder.csv", audio_rows(a="deep", b="")), tmp_path / "out", audio=folder)
    with pytest.raises(UsageError, match=r"^--audio: .*clps is not a directory: name the folder"):
        import_table(source, tmp_path / "out", audio=tmp_path / "clps")
    report = import_table(source, tmp_path / "out", audio=folder, missing_audio="missing")
    sounds = {u.dialogue_id: u.audio for split in SPLITS for u in read(tmp_path / "out", split)}
    assert sounds == {"a": wav(100), "b": None, "c": None, "d": None}
    assert report.notes == [
        "1 utterance has no audio file and goes without audio (gone.wav).",
        "1 utterance has an audio file that can't be read and goes without audio (empty.wav).",
    ]
    import_table(source, tmp_path / "text", text_only=True)
    assert all(u.audio is None for split in SPLITS for u in read(tmp_path / "text", split))
    (folder / "gone.wav").write_bytes(wav())
    with pytest.raises(
        DataError, match=r"mine\.csv, line 5: .*empty\.wav is empty .*; replace .* --missing-audio missing"
    ):
        import_table(source, tmp_path / "strict", audio=folder)


@pytest.mark.parametrize(
    ("audio_path", "message"),
    [
        ("../outside.wav", "leaves its folder by `..`"),
        ("/etc/hostname", "is not relative"),
        ("link.wav", "is a link that leads out"),
        ("away/outside.wav", "is a link that leads out"),
        ("n" * 5000, "is too long"),
        ("loop", "cannot be looked up|no audio file"),
    ],
)
def test_audio_path_outside_the_folder_is_rejected(tmp_path: Path, audio_path: str, message: str) -> None:
    folder = tmp_path / "clips"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "outside.wav").write_bytes(wav())
    (folder / "link.wav").symlink_to(tmp_path / "outside.wav")
    (folder / "away").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    source = make_table(tmp_path / "mine.csv", audio_rows(a=audio_path, b=""))
    with pytest.raises(DataError, match=message) as caught:
        import_table(source, tmp_path / "out", audio=folder)
    assert "line 2" in str(caught.value)


def test_embedded_audio_is_imported(tmp_path: Path) -> None:
    rows = [
        {"dialogue_id": "a", "turn": 1, "label": "x", "audio": {"bytes": wav(100), "path": "ignored"}},
        {"dialogue_id": "a", "turn": 0, "label": "y", "audio": {"bytes": None, "path": "here.wav"}},
        {"dialogue_id": "b", "turn": 0, "label": "x", "audio": None},
        {"dialogue_id": "b", "turn": 1, "label": "x", "audio": {"bytes": wav(200), "path": None}},
    ]
    (tmp_path / "here.wav").write_bytes(wav(300))
    import_table(make_table(tmp_path / "mine.parquet", rows), tmp_path / "out", splits=(1, 0, 0))
    assert [u.audio for u in read(tmp_path / "out", "train")] == [wav(300), wav(100), None, wav(200)]
    plain = [{**row, "audio": row["audio"] and row["audio"]["bytes"]} for row in rows]
    import_table(make_table(tmp_path / "plain.parquet", plain), tmp_path / "plain", splits=(1, 0, 0))
    assert [u.audio for u in read(tmp_path / "plain", "train")] == [None, wav(100), None, wav(200)]
    mixed = make_table(tmp_path / "mixed.parquet", [rows[0], rows[3], rows[1]])
    with pytest.raises(DataError, match=r"mixed\.parquet, row 3: dialogue a continues here after another one began"):
        import_table(mixed, tmp_path / "mixed")


def test_corrected_quarantine_replaces_dialogues_of_the_base(tmp_path: Path) -> None:
    rows = [
        {
            "dialogue_id": f"d{number}",
            "turn": turn,
            "text": f"{number} {turn}",
            "label": "ab"[turn],
            "speaker": f"s{number}",
        }
        for number in range(20)
        for turn in range(2)
    ]
    import_table(
        make_table(tmp_path / "old.csv", rows), tmp_path / "base", licence="L", language="fr", labels=["b", "a"]
    )
    before = dialogues_of(tmp_path / "base")
    corrected = [
        {
            "split": before["d3"],
            "dialogue_id": "d3",
            "turn": turn,
            "text": f"corrected {turn}",
            "audio": None,
            "label": "a",
        }
        | {"speaker": "s3", "problem": "not met: something"}
        for turn in range(2)
    ]
    columns = pa.schema([("split", pa.string()), *schema(), ("problem", pa.string())])
    pq.write_table(pa.Table.from_pylist(corrected, schema=columns), tmp_path / "quarantine.parquet")
    report = import_table(tmp_path / "quarantine.parquet", tmp_path / "new", base=tmp_path / "base")
    assert report.notes == ["1 dialogue of the base is replaced, 0 are new."] and report.splits == ""
    assert dialogues_of(tmp_path / "new") == before and sum(report.counts.values()) == 40
    texts = {(u.dialogue_id, u.turn): u.text for split in SPLITS for u in read(tmp_path / "new", split)}
    assert texts[("d3", 0)] == "corrected 0" and texts[("d4", 1)] == "4 1"
    info = load_info(tmp_path / "new" / "dataset.yaml")
    assert info == load_info(tmp_path / "base" / "dataset.yaml") and info.labels == ["b", "a"] and info.speaker_disjoint

    batch = [
        {"dialogue_id": name, "text": "New", "label": "a", "speaker": speaker}
        for name, speaker in (("d5", "s5"), ("n", "s7"))
    ]
    source = make_table(tmp_path / "batch.csv", batch)
    report = import_table(source, tmp_path / "third", base=tmp_path / "new")
    after = dialogues_of(tmp_path / "third")
    assert report.notes == ["1 dialogue of the base is replaced, 1 is new."]
    assert report.splits.startswith("The base's own; those of new dialogues: by whole dialogues, 80 % / 10 % / 10 %")
    mute = make_table(tmp_path / "mute.csv", [{"dialogue_id": "d5", "text": "New", "label": "a"}])
    report = import_table(mute, tmp_path / "mute", base=tmp_path / "new")
    assert report.splits == "The base's own."
    assert report.notes[1:2] == [
        "The base has speaker, and the table has no such column: the replaced dialogues are without speaker now."
    ]
    assert {**after, "n": before["d7"]} == {**before, "n": before["d7"]} and after["n"] == before["d7"]
    assert load_info(tmp_path / "third" / "dataset.yaml").speaker_disjoint
    for field, value in (("language", "de"), ("licence", "CC0-1.0")):
        with pytest.raises(UsageError, match=f"--{field}: it is that of .*leave it out here"):
            import_table(source, tmp_path / "fourth", base=tmp_path / "new", **{field: value})
    import_table(source, tmp_path / "same", base=tmp_path / "new", language="fr", licence="L")
    with pytest.raises(UsageError, match="labels are those of"):
        import_table(source, tmp_path / "fourth", base=tmp_path / "new", labels=["a"])
    with pytest.raises(UsageError, match=r"dataset\.yaml is missing"):
        import_table(source, tmp_path / "fourth", base=tmp_path / "nowhere")


GOOD = "dialogue_id,turn,text,label,split\n1,0,Hi,a,train\n1,1,Ho,b,train\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", r"t\.csv is empty"),
        ("t.csv", "dialogue_id,label,text\n", "holds no rows"),
        ("t.csv", "dialogue_id,dialogue_id,label,text\n1,1,a,b", "names the column 'dialogue_id' twice"),
        ("t.csv", GOOD + "1,two,Hi,a,train", r"t\.csv, line 4: the turn is 'two'"),
        ("t.csv", GOOD + "1,nan,Hi,a,train", "line 4: the turn is 'nan'"),
        ("t.csv", GOOD + "1,1,Hi,a,train", "line 4: dialogue 1 has turn 1 twice"),
        ("t.csv", GOOD + "1,2,Hi,,train", "line 4: there is no label"),
        ("t.csv", GOOD + " ,2,Hi,a,train", "line 4: there is no dialogue_id"),
        ("t.csv", GOOD + "1,2,Hi,a,holdout", "line 4: the split is 'holdout'"),
        ("t.csv", GOOD + "1,2,Hi,a,test", "line 4: dialogue 1 is in train and in test"),
        ("t.csv", GOOD + "1,2,Hi", "line 4: 3 fields, where the header has 5"),
        ("t.csv", GOOD + "1,2,H\0i,a,train", "line 4: there is a NUL byte"),
        ("t.csv", GOOD + "1,2," + "x" * 200_000 + ",a,train", "line 4: not readable as CSV"),
        ("t.csv", GOOD.encode() + b"1,2,caf\xe9,a,train", r"t\.csv, line 4: the text is not UTF-8"),
        ("t.csv", GOOD.encode("utf-16"), "not UTF-8"),
        ("t.csv", "dialogue_id,label,text\n1,a,Hi\n", "the labels a: "),
        ("t.csv", 'dialogue_id,label,text\n1,"a,b",Hi\n1,c,Hi\n', "the labels a,b, c: "),
        ("t.jsonl", '{"dialogue_id": 1', "line 1: not readable as JSON"),
        ("t.jsonl", "[1, 2]", "line 1: a JSON object .* is expected, not list"),
        ("t.jsonl", "[" * 100_000, "line 1: not readable as JSON"),
        ("t.jsonl", '{"dialogue_id": 1, "label": "a", "text": 3}', "line 1: text is int, not text"),
        ("t.jsonl", '{"dialogue_id": [], "label": "a", "text": ""}', "line 1: dialogue_id is list, not text"),
        ("t.jsonl", '{"dialogue_id": 1, "label": true, "text": ""}', "line 1: label is bool, not text"),
        ("t.jsonl", '{"dialogue_id": 1, "label": "a", "text": "\\ud800"}', "half of a surrogate pair"),
        ("t.jsonl", '{"dialogue_id": 1, "label": "a", "text": "\\u0000"}', "line 1: text holds characters"),
        ("t.jsonl", '{"dialogue_id": 1, "label": "a", "audio": 7}', "line 1: audio is int, not text"),
        ("t.jsonl", '{"dialogue_id": 1, "label": "a", "text": "", "turn": 1e99}', "the turn is '1e"),
        ("t.jsonl", '{"dialogue_id": 1, "label": 1.5, "text": ""}', "label is float, not text"),
        ("t.parquet", "PAR1 not at all PAR1", "not readable parquet"),
        ("t.parquet", "", "not readable parquet"),
        ("t.xlsx", "", "is none of the tables"),
    ],
)
def test_hostile_table_is_rejected_with_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MistereError, match=message) as caught:
        import_table(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert not (tmp_path / "out").exists()


def test_parquet_with_wrong_types_is_rejected(tmp_path: Path) -> None:
    for values in (
        {"text": b"\xff"},
        {"text": 3.5},
        {"text": {"a": 1}},
        {"audio": [1, 2]},
        {"turn": [0], "text": "x"},
    ):
        make_table(tmp_path / "t.parquet", [{"dialogue_id": "a", "label": "x", **values}])
        with pytest.raises(DataError, match=r"t\.parquet, row 1: "):
            import_table(tmp_path / "t.parquet", tmp_path / "out")


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    source = make_table(tmp_path / "mine.csv", ROWS)
    for arguments, message in [
        ({"columns": {"emotion": "label"}}, "'emotion' is no column of the dataset form"),
        ({"columns": {"label": "emotion"}}, "has no column 'emotion' for label; it has dialogue_id, turn"),
        ({"splits": (80, 10, 10)}, "--splits 80,10,10: three shares"),
        ({"splits": (0, 0.5, 0.5)}, "three shares"),
        ({"missing_audio": "ignore"}, "missing_audio is 'ignore'"),
    ]:
        keywords: Any = arguments
        with pytest.raises(UsageError, match=message):
            import_table(source, tmp_path / "out", **keywords)
    with pytest.raises(DataError, match="line 2: unknown label 'joy'"):
        import_table(source, tmp_path / "out", labels=["anger", "fear"])
    for header, message in (
        ("call,label,text", "has no column 'dialogue_id' .* add --column dialogue_id=COLUMN\\.$"),
        (
            "call,mood,words",
            "'dialogue_id' and no column 'label' and no column 'text' or 'audio' .it has call, mood, words.: add "
            "--column dialogue_id=COLUMN --column label=COLUMN --column text=COLUMN\\.$",
        ),
        ("call/label/text", "separator with --delimiter"),
        ("dialogue_id,emotion,text", "has no column 'label' .* add --column label=COLUMN"),
        ("dialogue_id,label,words", "has no column 'text' or 'audio' .* add --column text=COLUMN"),
    ):
        (tmp_path / "unmapped.csv").write_text(f"{header}\n1,a,b\n")
        with pytest.raises(UsageError, match=message):
            import_table(tmp_path / "unmapped.csv", tmp_path / "out")
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UsageError, match="is missing or no file"):
            import_table(path, tmp_path / "out")
    with pytest.raises(UsageError, match=r"mine\.csv is a file: choose a new folder"):
        import_table(source, source)
    with pytest.raises(UsageError, match="is not empty"):
        import_table(source, tmp_path)


# Context turns

CALL = (
    "call,who,text,label\n1,agent,Hello,greeting\n1,customer,I am angry,anger\n1,customer,Well,\n1,customer,Fine,joy\n"
)


def call(tmp_path: Path, content: str = CALL) -> Path:
    (tmp_path / "calls.csv").write_text(content)
    return tmp_path / "calls.csv"


COLUMNS = {"dialogue_id": "call", "role": "who"}


def test_other_roles_and_turns_without_a_label_are_context(tmp_path: Path) -> None:
    report = import_table(
        call(tmp_path), tmp_path / "out", columns=COLUMNS, predict_roles=["customer"], unlabelled="context"
    )
    assert [(row.role, row.label) for row in read(tmp_path / "out", "train")] == [
        ("agent", None), ("customer", "anger"), ("customer", None), ("customer", "joy"),
    ]  # fmt: skip
    info = load_info(tmp_path / "out" / "dataset.yaml")
    assert info.predict_roles == ["customer"] and info.labels == ["anger", "joy"]
    assert report.counts == {"train": 4} and report.labelled == {"train": 2}
    assert report.notes[:2] == [
        "1 turn of other roles than customer is context; labels there are left out.",
        "1 turn without a label is context.",
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"predict_roles": ["customer"]}, DataError, r"line 4: there is no label; .* unless --unlabelled context"),
        ({"predict_roles": ["custmer"]}, UsageError, "no turn has this role; those that occur are agent, customer"),
        ({"unlabelled": "drop"}, UsageError, "it is `fail` or `context`"),
        (
            {"predict_roles": ["customer"], "columns": {"dialogue_id": "call"}}, UsageError,
            r"has no column 'role', which says whose turns are predicted \(customer\): add --column role=COLUMN",
        ),
        ({"columns": {"dialogue_id": "call", "role": "what"}}, UsageError, "has no column 'what' for role"),
    ],
)  # fmt: skip
def test_context_that_is_not_clear_is_refused(
    tmp_path: Path, options: dict[str, Any], error: type[MistereError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        import_table(call(tmp_path), tmp_path / "out", **{"columns": COLUMNS, **options})
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_roles_of_the_base_hold_for_new_dialogues(tmp_path: Path) -> None:
    import_table(call(tmp_path), tmp_path / "base", columns=COLUMNS, predict_roles=["customer"], unlabelled="context")
    more = call(tmp_path, "call,who,text,label\n2,agent,Hello again,joy\n2,customer,Oh no,anger\n")
    import_table(more, tmp_path / "new", columns=COLUMNS, base=tmp_path / "base")
    rows = [(row.dialogue_id, row.role, row.label) for split in SPLITS for row in read(tmp_path / "new", split)]
    assert ("2", "agent", None) in rows and ("2", "customer", "anger") in rows and ("1", "agent", None) in rows
    with pytest.raises(UsageError, match=r"the roles are those of .* \(customer\); leave it out here"):
        import_table(more, tmp_path / "other", columns=COLUMNS, base=tmp_path / "base", predict_roles=["agent"])
