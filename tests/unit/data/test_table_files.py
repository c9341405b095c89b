"""Tables of real programs: no row, field, label or recording is lost or joined without a word."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS
from mistere.corpora.import_report import ImportReport
from mistere.corpora.importers.table import import_table
from mistere.corpora.tables.dialect import parse_delimiter
from mistere.data.audio import decode
from mistere.data.dataset import Utterance, load_info
from tests.unit.data.corpus_files import read, wav

COLUMNS = "dialogue_id,turn,text,label\n"
WAV = wav(800)
BASE64 = base64.b64encode(WAV).decode()
SAMPLES = soundfile.read(io.BytesIO(WAV), dtype="float32")[0]


def imported(path: Path, content: str | bytes | pa.Table, **options: Any) -> tuple[list[Utterance], ImportReport]:
    """Write a table, import it as train, and return its utterances."""
    shutil.rmtree(path.parent / "out", ignore_errors=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    report = import_table(path, path.parent / "out", **{"splits": (1, 0, 0), **options})
    return [row for split in SPLITS for row in read(path.parent / "out", split)], report


def refusal(path: Path, content: str | bytes | pa.Table, **options: Any) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        imported(path, content, **options)
    assert not (path.parent / "out").exists() and "\n" not in str(caught.value)
    return str(caught.value)


def table(audio: Any = None, **columns: Any) -> pa.Table:
    defaults = {"dialogue_id": ["d", "e"], "text": ["x", "y"], "label": ["a", "b"]}
    return pa.table(defaults | columns | ({} if audio is None else {"audio": audio}))


# Quotes, delimiters, line ends


@pytest.mark.parametrize(
    ("rows", "position"),
    [
        ('e,0,"Oh,a\ne,1,He said,b\ne,2,No",a\n', "lines 3 to 5: a quote joins lines that are rows"),
        ('e,0,"Oh,a\ne,1,He said,b\n', r"lines 3 to 4: not readable as CSV \(unexpected end"),
        ('e,0,"Oh,a\ne,1,He "said",b\n', r"lines 3 to 4: not readable as CSV \(',' expected"),
        ('e,0,"Oh"dear,a\n', r"line 3: not readable as CSV \(',' expected"),
        ('"e,1",0,"Oh,a\nf,1,No",b\n', "lines 3 to 4: a quote joins lines that are rows"),
        (f"e,0,{'x' * 140_000},a\n", "line 3: not readable as CSV .* the table holds recordings: store those as files"),
        ("e,0,Oh, dear,a\n", "line 3: 5 fields, where the header has 4"),
        ("e;0;Oh;a\n", "line 3: 1 fields, where the header has 4.*--delimiter"),
    ],
)
def test_row_that_does_not_add_up_is_refused_with_its_line(tmp_path: Path, rows: str, position: str) -> None:
    with pytest.raises(DataError, match=position):
        imported(tmp_path / "t.csv", COLUMNS + "d,0,Hm,a\n" + rows)
    assert not (tmp_path / "out").exists()


def test_quote_that_joins_rows_is_refused_without_turns_and_known_labels(tmp_path: Path) -> None:
    for body in ('x,Hm,c\ny,"Oh,a\nz,No",b\n', 'x,Hm,a\ny,"Oh,a\nz,No",a\n'):
        assert "lines 3 to 4" in refusal(tmp_path / "t.csv", "dialogue_id,text,label\n" + body)
    last = 'x,a,Hm\ny,b,"Oh\ny,a,No"\n'
    assert "lines 3 to 4" in refusal(tmp_path / "t.csv", "dialogue_id,label,text\n" + last)
    rows, _ = imported(tmp_path / "t.csv", "dialogue_id,label,text\n" + last, quotes="csv")
    assert [row.text for row in rows] == ["Hm", "Oh\ny,a,No"]


def test_line_breaks_inside_of_quoted_fields_are_kept_and_reported(tmp_path: Path) -> None:
    content = COLUMNS + 'd,0,"Well, no\nhm, yes, ""so""\r\n\r\nfine",a\nd,1,5" of rain,b\n'
    rows, report = imported(tmp_path / "t.csv", content)
    assert [row.text for row in rows] == ['Well, no\nhm, yes, "so"\r\n\r\nfine', '5" of rain']
    assert report.notes[0] == "Line breaks inside of a field: 1 row, the first in line 2."


def test_quotes_of_a_tsv_file_are_text_unless_all_fields_have_them(tmp_path: Path) -> None:
    header = COLUMNS.replace(",", "\t")
    content = header + 'd\t0\t"Oh\ta\nd\t1\tNo"\tb\ne\t0\t"Yes"\ta\ne\t1\t"a ""b"""\tb\n'
    rows, report = imported(tmp_path / "t.tsv", content)
    assert [(row.text, row.label) for row in rows] == [
        ('"Oh', "a"), ('No"', "b"), ('"Yes"', "a"), ('"a ""b"""', "b"),
    ]  # fmt: skip
    assert "1 row, the first in line 5; quotes are imported as text: add --quotes csv" in report.notes[0]
    enclosed = '"dialogue_id"\t"text"\t"label"\n"d"\t"Oh\n""no"""\t"a"\n"e"\t"y"\t"b"\n'
    (tmp_path / "enclosed").mkdir()
    assert imported(tmp_path / "enclosed" / "t.tsv", enclosed)[0][0].text == 'Oh\n"no"'
    assert "add --quotes csv" in refusal(tmp_path / "broken.tsv", header + 'd\t0\t"Oh\nno"\ta\n')


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ";"), ("t.csv", "\t"), ("t.csv", "|"), ("t.tsv", ",")])
def test_delimiter_is_found_in_the_header(tmp_path: Path, name: str, delimiter: str) -> None:
    content = "\n" + (COLUMNS + "d,0,Hm: yes,a\ne,0,Ho,b\n").replace(",", delimiter)
    rows, report = imported(tmp_path / name, content)
    assert [(row.dialogue_id, row.text, row.label) for row in rows] == [("d", "Hm: yes", "a"), ("e", "Ho", "b")]
    assert report.notes[0] == f"The fields are separated by {delimiter!r}, as the header shows."


def test_missing_column_error_lists_the_columns_of_a_table_with_another_delimiter(tmp_path: Path) -> None:
    content = "Gespräch;Text, wörtlich;Gefühl\nd;Hm;a\n"
    assert "(it has Gespräch, Text, wörtlich, Gefühl): add --column dialogue_id=COLUMN --column" in refusal(
        tmp_path / "t.csv", content
    )


@pytest.mark.parametrize(("delimiter", "named"), [(";", "';'"), ("\t", "tab"), (" ", "space")])
def test_a_wrong_delimiter_is_blamed_rather_than_the_columns(tmp_path: Path, delimiter: str, named: str) -> None:
    content = "call,text,emotion\nd,Hm,a\n"
    columns = {"dialogue_id": "call", "label": "emotion"}
    sentence = refusal(tmp_path / "t.csv", content, delimiter=delimiter, columns=columns)
    assert sentence.startswith(f"--delimiter {named}: the header of {tmp_path / 't.csv'} has no such separator")
    assert sentence.endswith("(call,text,emotion); leave the option out, or name ','.")
    with pytest.raises(UsageError, match="--delimiter"):
        imported(tmp_path / "t.csv", content, delimiter=delimiter)


def test_texts_of_a_wrong_encoding_are_repaired_and_those_that_are_lost_stay_to_be_reported(tmp_path: Path) -> None:
    texts = [
        "Cz\u00c4\u2122\u00c5\u203a\u00c4\u2021, jak si\u00c4\u2122 masz?",
        "Spa\u00df\u2026 \u00abOui\u00bb",
        "don\ufffdt",
    ]
    rows = "".join(f'd{at},0,"{text}",{label}\n' for at, (text, label) in enumerate(zip(texts, "aba", strict=True)))
    found, report = imported(tmp_path / "t.csv", COLUMNS + rows)
    assert [row.text for row in found] == ["Cz\u0119\u015b\u0107, jak si\u0119 masz?", *texts[1:]]
    assert "1 text had characters damaged by a wrong encoding: it is repaired." in report.notes


def test_delimiter_is_taken_from_the_option_or_the_line_of_a_spreadsheet(tmp_path: Path) -> None:
    content = (COLUMNS + "d,0,Hm,a\ne,0,Ho,b\n").replace(",", ":")
    assert "with --delimiter" in refusal(tmp_path / "t.csv", content)
    assert [row.text for row in imported(tmp_path / "t.csv", content, delimiter=":")[0]] == ["Hm", "Ho"]
    announced = "sep=;\r\n" + COLUMNS.replace(",", ";") + '"d";"0,0";"Hm";"a"\r\n"e";"0,0";"Ho, so";"b"\r\n'
    (tmp_path / "sep").mkdir()
    rows, _ = imported(tmp_path / "sep" / "t.csv", announced)
    assert [(row.turn, row.text) for row in rows] == [(0, "Hm"), (0, "Ho, so")]
    assert [parse_delimiter(typed) for typed in ("tab", "\\t", "\t", ";", "Semicolon")] == ["\t", "\t", "\t", ";", ";"]
    for typed in ("ab", '"', "\n"):
        with pytest.raises(UsageError, match="--delimiter"):
            parse_delimiter(typed)
    with pytest.raises(UsageError, match="no delimiter"):
        imported(tmp_path / "t.jsonl", "{}", delimiter=";")


def test_line_ends_marks_and_empty_header_cells_change_nothing(tmp_path: Path) -> None:
    content = "dialogue_id,turn,text,label,,\nd,0,Hm,a,,\n\ufeffd,1,Ho,b,1,\n"
    for index, variant in enumerate((content, "\ufeff" + content, content.replace("\n", "\r"))):
        folder = tmp_path / str(index)
        folder.mkdir()
        rows, report = imported(folder / "t.csv", variant)
        assert [(row.dialogue_id, row.turn, row.text) for row in rows] == [("d", 0, "Hm"), ("d", 1, "Ho")]
        assert report.notes[0] == "Columns that are not imported: one without a name, one without a name."
    assert "is UTF-16, not UTF-8" in refusal(tmp_path / "t.csv", content.encode("utf-16"))
    assert "key 'text' twice" in refusal(tmp_path / "t.jsonl", '{"dialogue_id": 1, "text": "a", "text": "b"}\n')


# Columns and cells


def test_columns_that_are_not_imported_are_named(tmp_path: Path) -> None:
    content = "dialogue_id,text,label,Speaker,context,x,x\nd,Hm,a,S,1,1,1\ne,Ho,b,S,1,1,1\n"
    _, report = imported(tmp_path / "t.csv", content)
    assert report.notes[:2] == [
        "Columns that are not imported: Speaker, context, x, x.",
        "No column is imported as speaker; if it is Speaker, add --column speaker=Speaker. Without speakers, nothing checks "
        "that the splits have different ones.",
    ]
    assert "it has Dialogue, text, label" in refusal(tmp_path / "u.csv", "Dialogue,text,label\nd,x,a\n")


def test_whole_numbers_with_decimals_are_the_numbers_of_the_labels_and_dialogues(tmp_path: Path) -> None:
    header = "dialogue_id,text,label,speaker\n"
    rows, report = imported(tmp_path / "t.csv", header + "1.0,x,0.0,7\n1,y,1.0,\n2.0,z,1.0,8\n", labels=["no", "yes"])
    assert [(row.dialogue_id, row.label, row.speaker) for row in rows] == [
        ("1", "no", "7"), ("1", "yes", None), ("2", "yes", "8"),
    ]  # fmt: skip
    assert report.notes[0] == "dialogue_id: whole numbers with decimals are read as whole numbers (1.0 as 1)."
    (tmp_path / "versions").mkdir()
    rows, _ = imported(tmp_path / "versions" / "t.csv", header + "1.0,x,a,1.000\n1.1,y,b,2.000\n")
    assert [(row.dialogue_id, row.speaker) for row in rows] == [("1.0", "1.000"), ("1.1", "2.000")]
    assert "a spreadsheet has rounded it" in refusal(tmp_path / "t.csv", header + "1.23457E+11,x,a,b\n")
    assert "float of more than 15 digits" in refusal(tmp_path / "t.parquet", table(dialogue_id=[1e17, 1.0]))
    assert "float, not text" in refusal(tmp_path / "t.parquet", table(dialogue_id=[float("inf"), 1.0]))


def test_labels_in_several_spellings_are_joined_only_on_request(tmp_path: Path) -> None:
    content = "dialogue_id,text,label\nd,x,neutral\ne,y,NEUTRAL\nf,z,joy\n"
    assert "line 3: the labels 'NEUTRAL' and 'neutral' differ only in case" in refusal(tmp_path / "t.csv", content)
    rows, report = imported(tmp_path / "t.csv", content, labels=["neutral", "joy"])
    assert [row.label for row in rows] == ["neutral", "neutral", "joy"]
    assert report.notes[0] == "1 utterance with the label 'NEUTRAL' is imported as 'neutral'."
    (tmp_path / "apart").mkdir()
    rows, _ = imported(tmp_path / "apart" / "t.csv", content, labels=["neutral", "NEUTRAL", "joy"])
    assert [row.label for row in rows] == ["neutral", "NEUTRAL", "joy"]


def test_written_missing_values_and_invisible_texts_are_missing(tmp_path: Path) -> None:
    header = "dialogue_id,text,label,speaker\n"
    rows, report = imported(
        tmp_path / "t.csv", header + "d,nan,a,NaN\ne,\u200b\u2060,none,x\nf,\x01\x7f\u3164,b,x\ng,Nan,b,x\n"
    )
    assert [(row.text, row.label, row.speaker) for row in rows] == [
        (None, "a", None), (None, "none", "x"), (None, "b", "x"), ("Nan", "b", "x"),
    ]  # fmt: skip
    assert report.notes[:3] == [
        "speaker: 1 cell with nothing but 'NaN' counts as empty.",
        "text: 2 cells with nothing but invisible characters count as empty.",
        "text: 1 cell with nothing but 'nan' counts as empty.",
    ]
    for row, column in (("nan,x,a,b", "dialogue_id"), ("d,x,nan,b", "label"), ("d,x,<NA>,b", "label")):
        assert f"line 2: there is no {column} (the cell is" in refusal(tmp_path / "u.csv", header + row + "\n")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": pa.array(["x", "ü"], pa.string_view()), "label": pa.array(["a", "b"], pa.string_view())}, ["x", "ü"]),
        ({"text": pa.array(["x", "ü"], pa.large_string()), "label": pa.array(["a", "b"]).dictionary_encode()}, ["x", "ü"]),
        ({"text": pa.array([b"x", "ü".encode()])}, ["x", "ü"]),
        ({"text": pa.array([b"x", "ü".encode()]).dictionary_encode()}, ["x", "ü"]),
        ({"dialogue_id": pa.array([Decimal(7), Decimal(8)], pa.decimal128(10, 2))}, ["x", "y"]),
        ({"text": pa.array(["x", None]).dictionary_encode(), "turn": pa.array([0.0, 0.0])}, ["x", None]),
    ],
)  # fmt: skip
def test_column_types_of_parquet_are_read(tmp_path: Path, columns: Mapping[str, Any], expected: list[str]) -> None:
    rows, _ = imported(tmp_path / "t.parquet", table(**columns))
    assert [row.text for row in rows] == expected and [row.label for row in rows] == ["a", "b"]
    assert {row.dialogue_id for row in rows} == ({"7", "8"} if "dialogue_id" in columns else {"d", "e"})


def test_column_types_without_a_clear_meaning_are_refused(tmp_path: Path) -> None:
    for columns, message in (
        ({"text": [b"x", b"\xff"]}, "row 2: text holds bytes that are not UTF-8"),
        ({"text": [["x"], ["y"]]}, "row 1: text is list, not text"),
        ({"text": [{"a": "x"}, None]}, "row 1: text is dict, not text"),
        ({"label": [True, False]}, "row 1: label is bool, not text"),
    ):
        assert message in refusal(tmp_path / "t.parquet", table(**columns))


def test_class_names_that_datasets_stores_are_the_labels(tmp_path: Path) -> None:
    # https://huggingface.co/docs/datasets/about_dataset_features: a ClassLabel stores integers, and its names in the metadata;
    # datasets.Features.arrow_schema writes them under the key "huggingface", as {"info": {"features": …}}.
    features = {"label": {"names": ["sad", "glad"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    rows, _ = imported(tmp_path / "t.parquet", table(label=[1, 0]).replace_schema_metadata(metadata))
    assert [row.label for row in rows] == ["glad", "sad"]
    assert load_info(tmp_path / "out" / "dataset.yaml").labels == ["sad", "glad"]
    missing = table(label=[-1, 0]).replace_schema_metadata(metadata)
    (tmp_path / "missing").mkdir()
    assert "row 1: there is no label (the class is -1)" in refusal(tmp_path / "missing" / "t.parquet", missing)
    import_table(tmp_path / "missing" / "t.parquet", tmp_path / "context", unlabelled="context")
    assert [row.label for row in read(tmp_path / "context", "train")] == [None, "sad"]


# Audio cells

DECODED = {"array": SAMPLES.tolist(), "sampling_rate": 16_000}


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.binary(len(WAV)), None])
def test_encoded_files_of_every_binary_type_are_kept(tmp_path: Path, kind: pa.DataType | None) -> None:
    values = pa.array([WAV, None], pa.binary())
    rows, _ = imported(tmp_path / "t.parquet", table(values.cast(kind) if kind else values.dictionary_encode()))
    assert [row.audio for row in rows] == [WAV, None]


@pytest.mark.parametrize(
    "cell",
    [
        BASE64,
        f"data:audio/wav;base64,{BASE64}",
        {"data": BASE64, "format": "wav"},
        {"bytes": None, "data": BASE64},
        DECODED,
        {"waveform": [SAMPLES.tolist(), SAMPLES.tolist()], "sample_rate": 16_000.0},
    ],
)
def test_recordings_in_json_and_csv_cells_keep_their_samples(tmp_path: Path, cell: Any) -> None:
    rows = [{"dialogue_id": "d", "text": "x", "label": "a", "audio": cell}, {"dialogue_id": "e", "label": "b"}]
    utterances, _ = imported(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert utterances[0].audio is not None and utterances[1].audio is None
    wave, rate = decode(utterances[0].audio)
    assert rate == 16_000 and np.array_equal(wave, SAMPLES)
    if isinstance(cell, str):
        (tmp_path / "csv").mkdir()
        content = f'dialogue_id,text,label,audio\nd,x,a,"{cell}"\ne,y,b,\n'
        assert imported(tmp_path / "csv" / "t.csv", content)[0][0].audio == WAV


def test_samples_of_datasets_keep_their_values(tmp_path: Path) -> None:
    whole = np.asarray([0, 1, -32768, 32767, 5] * 100, np.int16)
    louder = np.asarray([0.0, 1.25, -0.1] * 100, np.float32)
    cases: list[tuple[Any, Any]] = [(whole, pa.int16()), (louder, pa.float32()), (louder, pa.float64())]
    for index, (samples, kind) in enumerate(cases):
        struct = pa.struct([("array", pa.list_(kind)), ("sampling_rate", pa.int64()), ("path", pa.string())])
        cells = [{"array": samples.tolist(), "sampling_rate": 22_050, "path": "x.mp3"}, None]
        folder = tmp_path / str(index)
        folder.mkdir()
        rows, _ = imported(folder / "t.parquet", table(pa.array(cells, struct)))
        assert rows[0].audio is not None and rows[1].audio is None
        wave, rate = decode(rows[0].audio)
        assert rate == 22_050 and np.array_equal(wave, whole / np.float32(32768) if index == 0 else louder)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({**DECODED, "sampling_rate": None}, "its sampling rate is None: add it as sampling_rate"),
        ({**DECODED, "sampling_rate": 1e300}, "its sampling rate is 1e"),
        ({"array": [0, 12_000, -9_000], "sampling_rate": 16_000}, "samples up to 12000 in 'array'"),
        ({"array": [0.5, float("nan")], "sampling_rate": 16_000}, "samples up to nan|not readable as JSON"),
        ({"array": [], "sampling_rate": 16_000}, "the audio is empty"),
        ({"array": [[1, 2], [3]], "sampling_rate": 16_000}, "is no array of samples"),
        ({"array": [True, False], "sampling_rate": 16_000}, "is no array of samples"),
        ({"data": base64.b64encode(bytes(400)).decode()}, "holds no WAV, .* or MP3 file"),
        ({"data": ""}, "the audio is empty"),
        ({"file": "a.wav"}, "a struct of file, whose meaning is not known"),
        ({}, "a struct of nothing"),
        ([DECODED], "audio is list, not text"),
        (BASE64[:-8] + "!!!!!!!!", "neither a path nor base64"),
        ("data:audio/wav,abc", "a data URI without base64"),
    ],
)
def test_audio_cells_without_a_clear_meaning_are_refused(tmp_path: Path, cell: Any, message: str) -> None:
    row = {"dialogue_id": "d", "text": "x", "label": "a", "audio": cell}
    with pytest.raises(DataError, match=f"line 1: .*(?:{message})"):
        imported(tmp_path / "t.jsonl", json.dumps(row) + '\n{"dialogue_id": "e", "label": "b"}\n')
    assert not (tmp_path / "out").exists()


def test_audio_column_that_yields_nothing_is_an_error(tmp_path: Path) -> None:
    header = "dialogue_id,text,label,audio\n"
    assert "'audio' is empty in every row" in refusal(tmp_path / "t.csv", header + "d,x,a,\ne,y,b, \n")
    gone = header + "d,x,a,d.wav\ne,y,b,e.wav\n"
    assert "none of the recordings" in refusal(tmp_path / "t.csv", gone, missing_audio="missing")
    empty = table([{"bytes": b"", "path": None}, {"bytes": WAV, "path": None}])
    assert "row 1: the audio is empty (0 bytes)" in refusal(tmp_path / "t.parquet", empty)
    rows, report = imported(tmp_path / "t.parquet", empty, missing_audio="missing")
    assert [row.audio for row in rows] == [None, WAV] and report.notes[-1].endswith("without audio (row 1).")


# Splits


def dealt(path: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[dict[str, list[Utterance]], ImportReport]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_table(path, path.with_suffix(""), **options)
    return {split: read(path.with_suffix(""), split) for split in report.counts}, report


def test_splits_have_every_label_and_modality(tmp_path: Path) -> None:
    def row(number: int, turn: int) -> dict[str, Any]:
        label = "rare" if number in (3, 21) and turn == 0 else "seldom" if number % 13 == 5 else "ab"[turn % 2]
        audio = BASE64 if number in (7, 19, 33) else None
        return {"dialogue_id": f"d{number}", "text": f"{number} {turn}", "label": label, "audio": audio}

    rows = [row(number, turn) for number in range(40) for turn in range(4)]
    for seed in range(4):
        splits, report = dealt(tmp_path / f"{seed}.jsonl", rows, seed=seed)
        assert report.dialogues == {"train": 32, "dev": 4, "test": 4} and report.notes == []
        assert all(any(utterance.audio for utterance in split) for split in splits.values())
        labels = {split: {utterance.label for utterance in rows} for split, rows in splits.items()}
        assert labels["train"] == labels["test"] == {"a", "b", "rare", "seldom"}
        assert f"--seed {seed}" in report.splits


def test_shares_of_labels_are_similar_in_all_splits(tmp_path: Path) -> None:
    rows = [
        {"dialogue_id": f"d{number}", "text": f"{number}", "label": label, "speaker": f"s{number // 2}"}
        for number in range(200)
        for label in ["a"] * (number % 5 + 1) + ["b"] * (number // 40)
    ]
    splits, _ = dealt(tmp_path / "t.jsonl", rows)
    shares = {split: sum(row.label == "b" for row in rows) / len(rows) for split, rows in splits.items()}
    assert max(shares.values()) - min(shares.values()) < 0.05
    total = sum(map(len, splits.values()))
    assert [len(splits[split]) / total for split in SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    speakers = [{row.speaker for row in rows} for rows in splits.values()]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 100


def test_splits_that_validation_rejects_are_reported_with_the_seed(tmp_path: Path) -> None:
    rows = [
        {"dialogue_id": f"d{number}", "text": "x", "label": "rare" if number == 3 else "ab"[number % 2]}
        for number in range(20)
    ]
    splits, report = dealt(tmp_path / "t.jsonl", rows, seed=4)
    assert "rare" in {row.label for row in splits["train"]}
    assert report.notes == [
        "Validation rejects these splits: test has no 'rare' (in 1 dialogue): add dialogues, try another --seed, or add a "
        "column split."
    ]
    few, _ = dealt(tmp_path / "few.jsonl", rows[2:5])
    assert list(few) == ["train", "dev", "test"]
    one_voice = [
        {**row, "label": "ab"[number % 2], "speaker": f"s{number}", "audio": BASE64 if number < 10 else None}
        for number, row in enumerate(rows)
    ]
    for row in one_voice[:10]:
        row["speaker"] = "s0"
    splits, report = dealt(tmp_path / "voice.jsonl", one_voice)
    assert all(any(row.audio for row in split) for split in splits.values())
    assert report.notes == ["The speakers are too mixed to keep them apart: some are in several splits, or may be."]
