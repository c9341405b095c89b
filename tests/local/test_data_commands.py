"""`mistere data …` as in the guides: import a table, check it, quarantine its faulty dialogues, correct and restore them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.splits import SPLITS
from tests.local.workshop import make_dataset, mistere, mistere_in_process, rows

COLUMNS = ["call", "split", "turn", "text", "audio", "emotion", "speaker"]


def table(folder: Path, wrong_label: str = "") -> Path:
    """The tests' dialogues as a CSV file with a folder of recordings; one utterance gets ``wrong_label`` if it is given."""
    (folder / "recordings").mkdir(parents=True)
    with (folder / "calls.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for split, u in rows():
            name = f"{u.dialogue_id}-{u.turn}.wav"
            (folder / "recordings" / name).write_bytes(u.audio or b"")
            label = wrong_label if wrong_label and (u.dialogue_id, u.turn) == ("train-1", 2) else u.label
            writer.writerow([u.dialogue_id, split, u.turn, u.text, name, label, u.speaker])
    return folder / "calls.csv"


def import_table(source: Path, directory: Path, *more: str) -> None:
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
    import_table(table(tmp_path / "source", "crosss"), tmp_path / "calls", "--labels", "calm,glad,cross,crosss")
    info = tmp_path / "calls" / "dataset.yaml"
    info.write_text(info.read_text().replace("- crosss\n", ""))
    report = ["--profile", "tiny", "--output", str(tmp_path / "report")]
    done = mistere("data", "check", str(tmp_path / "calls"), *report)
    assert done.returncode == 4 and done.stdout.startswith("REJECT") and "'crosss'" in done.stdout
    share = ["--set", "validation.max_quarantined_share=0.1"]
    quarantine_check = mistere("data", "check", str(tmp_path / "calls"), *report, "--quarantine", *share)
    assert (
        quarantine_check.returncode == 0
        and quarantine_check.stdout.startswith("WARN")
        and "set aside in quarantine.parquet" in quarantine_check.stdout
    )
    verdict = json.loads((tmp_path / "report" / "verdict.json").read_text())
    assert verdict["quarantine"] == {"utterances": 4, "dialogues": {"train": ["train-1"]}}

    quarantine = tmp_path / "report" / "quarantine.parquet"
    quarantined = pq.read_table(quarantine)
    labels = [label.replace("crosss", "calm") for label in quarantined["label"].to_pylist()]
    corrected = quarantined.set_column(quarantined.schema.get_field_index("label"), "label", pa.array(labels))
    pq.write_table(corrected, quarantine)
    restored = mistere(
        "data", "import", "table", str(quarantine), str(tmp_path / "corrected"), "--base", str(tmp_path / "calls")
    )
    assert restored.returncode == 0, restored.stderr
    assert "1 dialogue of the base is replaced, 0 are new." in restored.stdout
    done = mistere("data", "check", str(tmp_path / "corrected"), *report, "--against", str(tmp_path / "calls"))
    assert done.returncode == 0 and done.stdout.startswith("PASS"), done.stdout
    import_table(table(tmp_path / "correct"), tmp_path / "imported", "--labels", "calm,glad,cross")
    comparison = mistere("data", "diff", str(tmp_path / "corrected"), str(tmp_path / "imported"), "--json")
    changes = json.loads(comparison.stdout)
    assert not any(changes[kind]["count"] for kind in ("added", "removed", "moved", "label", "text", "audio"))


@pytest.mark.long
def test_a_run_quarantines_faulty_dialogues(tmp_path: Path) -> None:
    """Later stages do not read quarantined dialogues."""
    faulty = [(s, u) for s, u in rows(audio=False)]
    data = make_dataset(tmp_path / "tones", iter(faulty))
    path = data / "train-00000.parquet"
    shard = pq.read_table(path)
    labels = shard["label"].to_pylist()
    labels[5] = "crosss"
    pq.write_table(shard.set_column(shard.schema.get_field_index("label"), "label", pa.array(labels)), path)
    common = ["run", "--profile", "tiny", "--data", str(data), "--output", str(tmp_path / "output")]
    result = mistere(*common, "--quarantine", "--set", "validation.max_quarantined_share=0.1")
    assert result.returncode == 0, result.stdout + result.stderr
    (embedded,) = (tmp_path / "output" / "store" / "artifacts" / "EmbeddingSet").glob("*/utterances.parquet")
    utterances = pq.read_table(embedded).to_pylist()
    assert len(utterances) == 68 and "train-1" not in {row["dialogue_id"] for row in utterances}
    assert {row["split"] for row in utterances} == set(SPLITS)


def test_invalid_arguments_are_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for arguments, code, message in (
        (
            ["check", str(tmp_path), "--output", str(tmp_path / "mine")],
            2,
            "is not empty and holds no validation report",
        ),
        (["check", str(tmp_path / "nothing")], 2, "is not a directory"),
        (["check", str(tmp_path)], 2, "dataset.yaml is missing"),
        (
            ["check", str(tmp_path), "--set", "validation.severity.label_declard=warn"],
            2,
            "did you mean 'label_declared'",
        ),
        (["import", "table", str(tmp_path / "no.csv"), str(tmp_path / "x")], 2, "is missing"),
        (["import", "table", "a.csv", "b", "--column", "label"], 2, "write it as NAME=COLUMN"),
        (["import", "table", "a.csv", "b", "--splits", "1,2"], 2, "name three shares"),
        (["import", "iemocap", "a", "b", "--classes", "5"], 2, "choose 6 or 4"),
        (["import", "mosi", "a", "b", "--zero", "odd"], 2, "choose positive or drop"),
    ):
        result = mistere_in_process("data", *arguments)
        assert result.returncode == code and message in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("mistere: ")
