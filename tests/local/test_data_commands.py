"""`mistere data …` as the guides show it: a table comes in, is checked, its faults are set aside, mended, and brought back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.splits import SPLITS
from tests.local.workshop import make_dataset, mistere, rows

COLUMNS = ["call", "split", "turn", "text", "audio", "emotion", "speaker"]


def table(folder: Path, spoiled: str = "") -> Path:
    """The tests' dialogues as a CSV file with a folder of recordings; the label of one utterance may be spoiled."""
    (folder / "recordings").mkdir(parents=True)
    with (folder / "calls.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for split, u in rows():
            name = f"{u.dialogue_id}-{u.turn}.wav"
            (folder / "recordings" / name).write_bytes(u.audio or b"")
            label = spoiled if spoiled and (u.dialogue_id, u.turn) == ("train-1", 2) else u.label
            writer.writerow([u.dialogue_id, split, u.turn, u.text, name, label, u.speaker])
    return folder / "calls.csv"


def brought_in(source: Path, directory: Path, *more: str) -> None:
    columns = ["--column", "label=emotion", "--column", "dialogue_id=call"]
    done = mistere(
        "data",
        "import",
        "table",
        str(source),
        str(directory),
        *columns,
        "--audio",
        str(source.parent / "recordings"),
        *more,
    )
    assert done.returncode == 0, done.stderr
    assert "train 40, dev 16, test 16 utterances in 18 dialogues" in done.stdout


@pytest.mark.long
def test_a_table_is_imported_checked_quarantined_fixed_and_restored(tmp_path: Path) -> None:
    brought_in(table(tmp_path / "source", "crosss"), tmp_path / "calls", "--labels", "calm,glad,cross,crosss")
    info = tmp_path / "calls" / "dataset.yaml"
    info.write_text(info.read_text().replace("- crosss\n", ""))
    report = ["--profile", "tiny", "--output", str(tmp_path / "report")]
    done = mistere("data", "check", str(tmp_path / "calls"), *report)
    assert done.returncode == 4 and done.stdout.startswith("REJECT") and "'crosss'" in done.stdout
    share = ["--set", "validation.max_quarantined_share=0.1"]
    aside = mistere("data", "check", str(tmp_path / "calls"), *report, "--quarantine", *share)
    assert (
        aside.returncode == 0 and aside.stdout.startswith("WARN") and "set aside in quarantine.parquet" in aside.stdout
    )
    verdict = json.loads((tmp_path / "report" / "verdict.json").read_text())
    assert verdict["quarantine"] == {"utterances": 4, "dialogues": {"train": ["train-1"]}}

    quarantine = tmp_path / "report" / "quarantine.parquet"
    found = pq.read_table(quarantine)
    labels = [label.replace("crosss", "calm") for label in found["label"].to_pylist()]
    mended = found.set_column(found.schema.get_field_index("label"), "label", pa.array(labels))
    pq.write_table(mended, quarantine)
    back = mistere(
        "data", "import", "table", str(quarantine), str(tmp_path / "mended"), "--base", str(tmp_path / "calls")
    )
    assert back.returncode == 0, back.stderr
    assert "1 dialogues of the base are replaced, 0 are new." in back.stdout
    done = mistere("data", "check", str(tmp_path / "mended"), *report, "--against", str(tmp_path / "calls"))
    assert done.returncode == 0 and done.stdout.startswith("PASS"), done.stdout
    brought_in(table(tmp_path / "whole"), tmp_path / "imported", "--labels", "calm,glad,cross")
    same = mistere("data", "diff", str(tmp_path / "mended"), str(tmp_path / "imported"), "--json")
    changes = json.loads(same.stdout)
    assert not any(changes[kind]["count"] for kind in ("added", "removed", "moved", "label", "text", "audio"))


@pytest.mark.long
def test_a_run_sets_dialogues_aside(tmp_path: Path) -> None:
    """What is set aside is read by no stage after it."""
    faulty = [(s, u) for s, u in rows(audio=False)]
    data = make_dataset(tmp_path / "tones", iter(faulty))
    path = data / "train-00000.parquet"
    spoiled = pq.read_table(path)
    labels = spoiled["label"].to_pylist()
    labels[5] = "crosss"
    pq.write_table(spoiled.set_column(spoiled.schema.get_field_index("label"), "label", pa.array(labels)), path)
    common = ["run", "--profile", "tiny", "--data", str(data), "--output", str(tmp_path / "output")]
    done = mistere(*common, "--quarantine", "--set", "validation.max_quarantined_share=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    (embedded,) = (tmp_path / "output" / "store" / "artifacts" / "EmbeddingSet").glob("*/utterances.parquet")
    kept = pq.read_table(embedded).to_pylist()
    assert len(kept) == 68 and "train-1" not in {row["dialogue_id"] for row in kept}
    assert {row["split"] for row in kept} == set(SPLITS)


def test_what_is_typed_wrong_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for arguments, code, says in (
        (
            ["check", str(tmp_path), "--output", str(tmp_path / "mine")],
            2,
            "is not empty and holds no validation report",
        ),
        (["check", str(tmp_path / "nothing")], 2, "is not a directory"),
        (["check", str(tmp_path)], 4, "dataset.yaml is missing"),
        (
            ["check", str(tmp_path), "--set", "validation.severity.label_declard=warn"],
            2,
            "did you mean 'label_declared'",
        ),
        (["import", "table", str(tmp_path / "no.csv"), str(tmp_path / "x")], 4, "is missing"),
        (["import", "table", "a.csv", "b", "--column", "label"], 2, "write it as NAME=COLUMN"),
        (["import", "table", "a.csv", "b", "--splits", "1,2"], 2, "name three shares"),
        (["import", "iemocap", "a", "b", "--classes", "5"], 2, "choose 6 or 4"),
        (["import", "mosi", "a", "b", "--zero", "odd"], 2, "choose positive or drop"),
    ):
        done = mistere("data", *arguments)
        assert done.returncode == code and says in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("mistere: ")
