"""`mistere label` as in the guide: export, annotate, import, check, and train with the new version."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from tests.local.workshop import make_dataset, mistere_in_process, run, tone
from tests.unit.labelling.kept import LABELS, keep, kept_turn


def kept_calls(root: Path) -> None:
    """Ten dialogues of four turns, with recordings of their own."""
    store, draw = LocalStore(root), np.random.default_rng(0)
    for call in range(10):
        clips = [tone(1000 + 20 * call + turn) for turn in range(4)]
        turns = [
            kept_turn(draw.dirichlet(np.ones(3)), f"This is call {call}, part {turn}.", clip)
            for turn, clip in enumerate(clips)
        ]
        keep(store, f"call-{call}", turns, clips, draw.normal(size=(4, 8)).astype(np.float32))


def annotate(export: Path) -> Path:
    """The answers of two annotators, who differ at the last turn of each dialogue."""
    content = []
    for task in json.loads((export / "tasks.json").read_text()):
        turns = range(len(task["data"]["utterances"]))
        annotations = [
            {
                "id": person,
                "completed_by": {"id": person, "email": f"{person}@example.org"},
                "was_cancelled": False,
                "result": [
                    {
                        "from_name": f"emotion_{turn}",
                        "to_name": f"text_{turn}",
                        "type": "choices",
                        "value": {"choices": [LABELS[(turn + (person if turn == 3 else 0)) % 3]]},
                    }
                    for turn in turns
                ],
            }
            for person in (1, 2)
        ]
        content.append({"data": task["data"], "annotations": annotations})
    path = export.parent / "answers.json"
    path.write_text(json.dumps(content))
    return path


def labelled(tmp_path: Path) -> Path:
    """A new version of the tests' dataset, through the commands in this process."""
    base, export = make_dataset(tmp_path / "base"), tmp_path / "to-label"
    kept_calls(tmp_path / "store")
    chosen = ["--count", "6", "--base", str(base), "--seed", "5", "--store", str(tmp_path / "store")]
    done = mistere_in_process("label", "export", str(export), *chosen)
    assert done.returncode == 0, done.stderr
    assert f"{export}: 6 dialogues with 24 turns to label, 1 of them drawn by chance" in done.stdout
    arguments = [str(export), str(annotate(export)), str(tmp_path / "new"), "--base", str(base), "--annotators", "2"]
    done = mistere_in_process("label", "import", *arguments, "--report", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    assert "train 64, dev 16, test 16 utterances" in done.stdout
    assert "18 turns of 6 dialogues labelled: calm 6, glad 6, cross 6" in done.stdout
    assert "2 annotators, Krippendorff's alpha 0.6" in done.stdout and "6 conflicts and 0 misfits" in done.stdout
    assert "example.org" not in (tmp_path / "report" / "summary.json").read_text()
    return tmp_path / "new"


def test_export_and_import_say_what_they_did(tmp_path: Path) -> None:
    labelled(tmp_path)


@pytest.mark.long
def test_the_new_version_passes_validation(tmp_path: Path) -> None:
    new = labelled(tmp_path)
    against = ["--against", str(tmp_path / "base"), "--output", str(tmp_path / "check")]
    done = mistere_in_process("data", "check", str(new), "--profile", "tiny", *against)
    assert done.returncode == 0, done.stdout


def test_wrong_arguments_are_one_sentence(tmp_path: Path) -> None:
    empty = ["--store", str(tmp_path / "empty")]
    for arguments, code, sentence in (
        (["label", "export", str(tmp_path / "x"), *empty], 1, "holds no dialogue to label"),
        (["label", "export", str(tmp_path / "x"), "--weight", "age=2", *empty], 2, "the names are uncertainty"),
        (["traffic", "delete", "call-1", *empty], 2, "name the store of the sample with --store"),
        (["label", "import", "nowhere", "a.json", "new", "--base", "b"], 2, "`mistere label export` made"),
        (
            ["label", "import", "nowhere", "a.json", "new", "--base", "b", "--split", "all"],
            2,
            "choose train, dev, test",
        ),
    ):
        done = mistere_in_process(*arguments)
        assert done.returncode == code and sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.long
def test_a_run_trains_with_the_new_version(tmp_path: Path) -> None:
    new = labelled(tmp_path)
    finished = run(tmp_path / "output", new)
    assert finished.code in (0, 3), finished.text
