"""From kept dialogues to a new version of a dataset: export, answers, import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, DataError, MistereError, UsageError
from mistere.data.dataset import Utterance, load_info
from mistere.data.dataset_writer import write_dataset
from mistere.labelling import removal, selection
from mistere.labelling.answers import read_answers
from mistere.labelling.export import ExportOptions, ExportReport, export_tasks
from mistere.labelling.labelled_dataset import LabelledReport, import_labels, write_report
from mistere.labelling.removal import remove_dialogue
from mistere.labelling.tasks import CANNOT_TELL, configuration
from mistere.serving.sample import places
from pipelines.cli.commands.label.kept_dialogues import delete
from tests.local.workshop import make_dataset, tone
from tests.unit.data.corpus_files import read, shard_digests
from tests.unit.labelling.kept import LABELS, NOW, keep, kept_turn

HOSTILE = '<script>alert(1)</script> =cmd|"/c calc"!A1 {{idx}} $utterances'


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Twelve dialogues of three turns: the first is context, the last has a recording."""
    store = LocalStore(tmp_path / "store")
    draw = np.random.default_rng(0)
    for number in range(12):
        clip = tone(700 + number)
        turns = [
            kept_turn((0.0, 0.0, 0.0), "How can I help?", predicted=False),
            kept_turn(draw.dirichlet(np.ones(3)), HOSTILE if number == 3 else f"Call {number}, all is well."),
            kept_turn(draw.dirichlet(np.ones(3)), None, clip, transcript="hm"),
        ]
        keep(store, f"call-{number}", turns, [clip], draw.normal(size=(3, 4)).astype(np.float32))
    return store


def exported(store: LocalStore, folder: Path, **options: Any) -> ExportReport:
    return export_tasks(store, folder, ExportOptions(**{"count": 5, **options}), NOW)


def tasks(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "tasks.json").read_text())


def answered(folder: Path, *annotators: dict[tuple[int, int], str]) -> Path:
    """Label Studio's export of a project: each annotator's answers by number of the task and turn."""
    content = []
    for number, task in enumerate(tasks(folder)):
        annotations = []
        for person, answers in enumerate(annotators):
            result = [
                {
                    "id": f"r{turn}",
                    "type": "choices",
                    "value": {"choices": [label]},
                    "origin": "manual",
                    "to_name": f"text_{turn}",
                    "from_name": f"emotion_{turn}",
                }
                for (of_task, turn), label in answers.items()
                if of_task == number
            ]
            made = {"completed_by": person + 1, "was_cancelled": False, "updated_at": "2026-11-30T08:00:00Z"}
            annotations.append({"id": 10 * number + person, "result": result, **made})
        content.append({"id": number + 1, "data": task["data"], "annotations": annotations, "predictions": []})
    path = folder.parent / "answers.json"
    path.write_text(json.dumps(content))
    return path


def test_an_export_is_tasks_interface_recordings_and_a_table(store: LocalStore, tmp_path: Path) -> None:
    report = exported(store, tmp_path / "export", count=12)
    assert (len(report.choices), report.turns, report.labels, report.notes) == (12, 24, LABELS, [])
    content = tasks(tmp_path / "export")
    assert all(task.keys() == {"data"} for task in content)
    rows = pq.read_table(tmp_path / "export" / "dialogues.parquet").to_pylist()
    assert [row["dialogue_id"] for row in rows[::3]] == [task["data"]["dialogue_id"] for task in content]
    assert {row["label"] for row in rows} == {None} and "speaker" not in rows[0]
    for task in content:
        assert re.fullmatch(r"live-[0-9a-f]{20}", task["data"]["dialogue_id"])
        context, text, clip = task["data"]["utterances"]
        assert (context["questions"], text["questions"], clip["questions"]) == ([], ["emotion"], ["emotion"])
        assert clip["text"] == "[transcribed] hm" and not text["recordings"]
        address = clip["recordings"][0].removeprefix("/data/local-files/?d=")
        assert (tmp_path / "export" / address).read_bytes().startswith(b"RIFF") and address.endswith(".wav")
    assert any(task["data"]["utterances"][1]["text"] == HOSTILE for task in content)
    assert "call-" not in (tmp_path / "export" / "tasks.json").read_text().replace("Call", "")


def test_the_interface_has_the_tags_that_label_studio_documents() -> None:
    """https://labelstud.io/tags/repeater: `on` names a list of the task; an index flag stands for the place in names and values."""
    root = ElementTree.fromstring(configuration(['a"<b>&', "calm"]))  # noqa: S314
    outer, clips, questions = root.iter("Repeater")
    assert (outer.get("on"), outer.get("indexFlag")) == ("$utterances", "{{idx}}")
    assert [each.get("on") for each in (clips, questions)] == [
        "$utterances[{{idx}}].recordings",
        "$utterances[{{idx}}].questions",
    ]
    (text,), (choices,), (audio,) = (list(root.iter(name)) for name in ("Text", "Choices", "Audio"))
    assert choices.get("toName") == text.get("name") == "text_{{idx}}" and choices.get("name") == "emotion_{{idx}}"
    assert choices.get("choice") == "single" and audio.get("value") == "$utterances[{{idx}}].recordings[{{clip}}]"
    assert [choice.get("value") for choice in choices] == ['a"<b>&', "calm", CANNOT_TELL]


def test_the_same_seed_gives_the_same_export_and_earlier_ones_are_left_out(store: LocalStore, tmp_path: Path) -> None:
    first, again = exported(store, tmp_path / "a", seed=3), exported(store, tmp_path / "b", seed=3)
    assert first.choices[0].candidate.name == again.choices[0].candidate.name
    for name in ("tasks.json", "interface.xml", "dialogues.parquet", "export.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    rest = exported(
        store,
        tmp_path / "c",
        count=100,
        earlier=[tmp_path / "a"],
        random_share=0,
        audio_url="https://files.example.org/x/",
    )
    assert len(rest.choices) == 7 and rest.notes == ["5 dialogues of the base or of earlier exports left out."]
    names = {task["data"]["dialogue_id"] for task in tasks(tmp_path / "c")}
    assert not names & {choice.candidate.name for choice in first.choices}
    assert "https://files.example.org/x/" in (tmp_path / "c" / "tasks.json").read_text()
    with pytest.raises(UsageError, match="not empty"):
        exported(store, tmp_path / "a")


def test_chance_draws_difficult_dialogues_again_but_not_its_own(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = exported(store, tmp_path / "a", random_share=0.4)
    reasons = {choice.candidate.name: choice.reason for choice in first.choices}
    monkeypatch.setattr(
        selection, "_draw", lambda name, seed: (name not in reasons, name)
    )  # those of the first export first
    second = exported(store, tmp_path / "b", count=7, earlier=[tmp_path / "a"], random_share=0.6)
    drawn = {choice.candidate.name for choice in second.choices if choice.reason == "random"}
    assert len(drawn) == 4 and len(second.choices) == 7
    assert drawn & reasons.keys() == {name for name, reason in reasons.items() if reason == "informative"}
    assert second.notes[-1] == "3 dialogues of them drawn again, by chance: label them again."
    assert {task["data"]["dialogue_id"] for task in tasks(tmp_path / "b")} >= drawn


def test_nothing_to_label_is_said(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    keep(store, "old", [kept_turn()], keep_until="2020-01-01")
    keep(store, "vectors", [kept_turn(text=None)])
    with pytest.raises(MistereError, match="no dialogue to label"):
        exported(store, tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "base")


def test_answers_become_a_new_version(store: LocalStore, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    exported(store, folder, base=base)
    same = {(0, 1): "calm", (0, 2): "glad", (1, 1): "cross", (2, 1): CANNOT_TELL, (2, 2): "calm"}
    answers = answered(folder, same, {**same, (1, 1): "calm", (0, 2): "glad"}, {(0, 1): "calm", (0, 2): "cross"})

    def imported(name: str, onto: Path) -> LabelledReport:
        return import_labels(folder, answers, tmp_path / name, onto)

    report = imported("new", base)
    names = [task["data"]["dialogue_id"] for task in tasks(folder)]
    assert report.imported.counts == {"train": 46, "dev": 16, "test": 16} and report.labels == {
        "calm": 2,
        "glad": 1,
        "cross": 0,
    }
    added = [u for u in read(tmp_path / "new", "train") if u.dialogue_id.startswith("live-")]
    assert [(u.dialogue_id, u.turn, u.label) for u in added if u.label] == [
        (names[0], 1, "calm"),
        (names[0], 2, "glad"),
        (names[2], 2, "calm"),
    ]
    assert all(u.speaker is None for u in added) and added[2].audio and added[2].text is None
    assert report.consensus.agreement.units == 4
    assert report.set_aside() == [
        {"dialogue_id": names[1], "turn": 1, "reason": "the annotators do not agree", "answers": ["calm", "cross"]}
    ]
    write_report(report, tmp_path / "report")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["annotators"] == 3 and summary["conflicts"] == 1
    assert summary["agreement"]["alpha"] == round(report.consensus.agreement.alpha or 0, 6)
    assert len((tmp_path / "report" / "set_aside.jsonl").read_text().splitlines()) == 1
    imported("again", base)
    onto_itself = imported("onto", tmp_path / "new")
    assert shard_digests(tmp_path / "new") == shard_digests(tmp_path / "again") == shard_digests(tmp_path / "onto")
    assert onto_itself.replaced == onto_itself.dialogues == 2
    assert len(exported(store, tmp_path / "next", count=99, base=tmp_path / "new", random_share=0).choices) == 10


def test_a_turn_without_a_new_label_keeps_that_of_the_base(store: LocalStore, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    exported(store, folder, base=base)
    first = answered(folder, {(0, 1): "calm", (0, 2): "glad", (1, 1): "cross"})
    import_labels(folder, first, tmp_path / "first", base)
    second = answered(
        folder, {(0, 1): "cross", (0, 2): "calm"}, {(0, 1): "cross", (0, 2): "glad"}
    )  # no majority at turn 2
    report = import_labels(folder, second, tmp_path / "second", tmp_path / "first")
    names = [task["data"]["dialogue_id"] for task in tasks(folder)]
    rows = [u for u in read(tmp_path / "second", "train") if u.dialogue_id in names[:2] and u.label]
    assert {(u.dialogue_id, u.turn, u.label) for u in rows} == {
        (names[0], 1, "cross"),
        (names[0], 2, "glad"),
        (names[1], 1, "cross"),
    }
    assert (report.kept, report.dropped, report.replaced, report.labels["cross"]) == (1, 0, 1, 1)
    assert report.summary()["kept_labels"] == 1


def test_a_label_of_the_base_is_not_given_to_another_turn(store: LocalStore, base: Path, tmp_path: Path) -> None:
    """A dialogue that lost its first turns has other ones at the same places."""
    folder = tmp_path / "export"
    exported(store, folder)
    name = tasks(folder)[0]["data"]["dialogue_id"]
    others = [
        ("train", Utterance(name, turn, label, text=f"Another text {turn}.")) for turn, label in enumerate(LABELS)
    ]
    write_dataset(tmp_path / "other", load_info(base / "dataset.yaml"), others)
    report = import_labels(folder, answered(folder, {(0, 1): "calm"}), tmp_path / "new", tmp_path / "other")
    assert [u.label for u in read(tmp_path / "new", "train")] == [None, "calm", None]
    assert (report.kept, report.dropped) == (0, 2)


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("label", None, "a shard of train lacks the column 'label'"),
        ("dialogue_id", None, "a shard of train lacks the column 'dialogue_id'"),
        ("label", pa.int64(), "the column 'label' of a shard of train is int64 instead of texts"),
        ("dialogue_id", pa.int64(), "the column 'dialogue_id' of a shard of train is int64 instead of texts"),
    ],
)
def test_a_base_of_another_form_is_refused(
    column: str, values: pa.DataType | None, sentence: str, store: LocalStore, base: Path, tmp_path: Path
) -> None:
    exported(store, tmp_path / "export")
    answers = answered(tmp_path / "export", {(0, 1): "glad"})
    for shard in base.glob("train-*.parquet"):
        table = pq.read_table(shard)
        position = table.schema.get_field_index(column)
        table = table.remove_column(position)
        if values is not None:
            table = table.append_column(column, pa.array([0] * len(table), values))
        pq.write_table(table, shard)
    with pytest.raises(DataError, match=sentence):
        exported(store, tmp_path / "next", base=base)
    with pytest.raises(DataError, match=sentence):
        import_labels(tmp_path / "export", answers, tmp_path / "new", base)
    assert not (tmp_path / "next").exists() and not (tmp_path / "new").exists()


def test_turns_of_predicted_roles_get_the_role(store: LocalStore, tmp_path: Path) -> None:
    base = make_dataset(tmp_path / "base", predict_roles=["customer"])
    exported(store, tmp_path / "export")
    import_labels(tmp_path / "export", answered(tmp_path / "export", {(0, 1): "glad"}), tmp_path / "new", base)
    added = [u for u in read(tmp_path / "new", "train") if u.dialogue_id.startswith("live-")]
    assert [(u.role, u.label) for u in added] == [(None, None), ("customer", "glad"), (None, None)]


def test_a_dialogue_is_removed_from_an_export(store: LocalStore, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    report = exported(store, folder)
    names = [choice.candidate.name for choice in report.choices]
    answers = answered(folder, {(0, 1): "calm", (1, 1): "glad"})
    before = {path.name for path in (folder / "audio").iterdir()}
    assert remove_dialogue(folder, names[0]) and not remove_dialogue(folder, names[0])
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert (
        names[0].encode() not in everything and len(before - {path.name for path in (folder / "audio").iterdir()}) == 1
    )
    assert [task["data"]["dialogue_id"] for task in tasks(folder)] == names[1:]
    result = import_labels(folder, answers, tmp_path / "new", base)
    assert result.labels == {"calm": 0, "glad": 1, "cross": 0} and result.dialogues == 1
    (folder / "tasks.json").write_text('[{"data": 1}]')
    with pytest.raises(DataError, match="delete the whole export"):
        remove_dialogue(folder, names[1])
    with pytest.raises(UsageError, match="label export"):
        remove_dialogue(tmp_path, names[1])


def test_an_interrupted_removal_is_completed_by_the_next(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "export"
    names = [choice.candidate.name for choice in exported(store, folder).choices]
    (folder / "audio" / "mine.txt").write_text("not a recording of the export")
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        interrupted.setattr(removal, "_recordings", interrupt)
        interrupted.setattr(removal, "_tasks", lambda path: json.loads(path.read_text()))
        remove_dialogue(folder, names[0])
    assert len(tasks(folder)) == 4 and len(list((folder / "audio").iterdir())) == 6
    assert remove_dialogue(folder, names[0])
    assert len(list((folder / "audio").iterdir())) == 5 and (folder / "audio" / "mine.txt").exists()


def test_what_a_killed_export_left_is_deleted(store: LocalStore, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for number in range(2):
        left = tmp_path / f".export.partial-{ended.pid}"
        running, other = tmp_path / f".export.partial-{os.getppid()}", tmp_path / f".export2.partial-{ended.pid}"
        for folder in (left, running, other):
            (folder / "audio").mkdir(parents=True, exist_ok=True)
        if number:
            remove_dialogue(tmp_path / "export", "none")
        else:
            exported(store, tmp_path / "export")
        assert not left.exists() and running.exists() and other.exists()


def test_what_a_killed_import_left_is_deleted(tmp_path: Path) -> None:
    """In a container, the process that was killed had the id of the next one."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = [tmp_path / f".data.partial-{process}" for process in (ended.pid, os.getpid())]
    for folder in left:
        folder.mkdir()
        (folder / "train-00000.parquet").write_bytes(b"voices")
    make_dataset(tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failed_deletion_still_deletes_the_rest(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(store, tmp_path / "export", count=12)

    def busy(*_: object) -> int:
        raise ArtifactError("a predictor still writes")

    monkeypatch.setattr(places, "delete_folder", busy)
    with pytest.raises(ArtifactError, match="still writes"):
        delete(tmp_path, str(store.root), "call-0", [tmp_path / "nowhere", tmp_path / "export"])
    printed = capsys.readouterr().out
    assert "nowhere: failed" in printed and f"{tmp_path / 'export'}: deleted" in printed
    assert len(tasks(tmp_path / "export")) == 11


def test_too_few_annotators_and_other_labels_are_refused(store: LocalStore, base: Path, tmp_path: Path) -> None:
    exported(store, tmp_path / "export")
    answers = answered(tmp_path / "export", {(0, 1): "glad"})
    with pytest.raises(DataError, match="no turn got a label"):
        import_labels(tmp_path / "export", answers, tmp_path / "new", base, least=2)
    other = make_dataset(tmp_path / "other", iter(()), labels=["calm", "glad"])
    with pytest.raises(UsageError, match="no label 'cross'"):
        import_labels(tmp_path / "export", answers, tmp_path / "new", other)
    assert not (tmp_path / "new").exists()
    (tmp_path / "export" / "dialogues.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="was changed"):
        import_labels(tmp_path / "export", answers, tmp_path / "new", base)
    with pytest.raises(UsageError, match="label export"):
        import_labels(tmp_path, answers, tmp_path / "new", base)


def annotation(*results: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "completed_by": 7, "updated_at": "2026-01-01T00:00:00Z", "result": list(results), **more}


def choice(name: Any = "emotion_1", choices: Any = ("calm",)) -> dict[str, Any]:
    return {"from_name": name, "type": "choices", "value": {"choices": list(choices) if choices is not None else None}}


HOSTILE_ANNOTATIONS = {
    "unknown label": (annotation(choice(choices=["<b>joy</b>"])), "the label '<b>joy</b>' is unknown"),
    "two choices": (annotation(choice(choices=["calm", "glad"])), "not one choice"),
    "no choices": (annotation(choice(choices=None)), "not one choice"),
    "a number": (annotation(choice(choices=[7])), "not one choice"),
    "a turn that was not asked": (annotation(choice("emotion_0")), "was not asked"),
    "a huge turn": (annotation(choice("emotion_999999")), "was not asked"),
    "another question": (annotation(choice("emotion_1; DROP TABLE")), "no question of the export"),
    "a name that is no text": (annotation(choice({"a": 1})), "no question of the export"),
    "a result that is no object": (annotation("x"), "no question of the export"),
    "two answers": (annotation(choice(), choice(choices=["glad"])), "two answers"),
    "no annotator": (annotation(choice(), completed_by=None), "who made it"),
    "a flag as annotator": (annotation(choice(), completed_by=True), "who made it"),
    "no results": ({"completed_by": 1, "result": "x"}, "no list of results"),
    "no object": ([], "no list of results"),
}


@pytest.mark.parametrize("name", HOSTILE_ANNOTATIONS)
def test_hostile_answers_are_set_aside(name: str, tmp_path: Path) -> None:
    hostile, reason = HOSTILE_ANNOTATIONS[name]
    fine = annotation(choice("emotion_2", ["glad"]), completed_by={"id": 8, "email": "x@example.org"})
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([{"data": {"dialogue_id": "d"}, "annotations": [hostile, fine]}]))
    answers = read_answers(path, {"d": [1, 2]}, LABELS)
    assert answers.given == {("d", 2): {"8": "glad"}}
    assert len(answers.problems) == 1 and reason in answers.problems[0].reason


def test_the_last_annotation_of_an_annotator_counts(tmp_path: Path) -> None:
    first = annotation(choice(), updated_at="2026-01-01T00:00:00Z")
    later = annotation(choice(choices=["glad"]), updated_at="2026-01-02T00:00:00Z")
    skipped = annotation(choice(choices=["cross"]), updated_at="2026-01-03T00:00:00Z", was_cancelled=True)
    path = tmp_path / "answers.json"
    several = [{"data": {"dialogue_id": "d"}, "annotations": [one]} for one in (later, skipped, first)]
    path.write_text(json.dumps([*several, {"data": {"dialogue_id": "other"}, "annotations": []}, {"id": 3}]))
    answers = read_answers(path, {"d": [1]}, LABELS)
    assert answers.given == {("d", 1): {"7": "glad"}} and answers.skipped == 1
    assert [problem.reason.split(",")[1] for problem in answers.problems] == [" which is not in the export"] * 2


@pytest.mark.parametrize("content", ["{}", "[1]", "not json", "[" * 100_000, '[{"a": 1}', "null"])
def test_what_is_no_list_of_tasks_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_answers(path, {}, LABELS)
