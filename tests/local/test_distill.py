"""``mistere distill``: a bundle's student is a bundle in the same form, which is served, and the same each time."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.pull_data.run import describe
from mistere.artifacts.io import ArtifactHandle, artifact_key, open_artifact, publish
from mistere.artifacts.locations import split_bundle_location
from mistere.artifacts.manifests import ModelBundle, UtteranceSet
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from mistere.data.versions import pin
from mistere.evaluation.footprint import footprint
from mistere.model.dialogue_model import UtteranceInput
from mistere.model.inference import load_bundle
from pipelines.cli.distillation.steps import StudentSteps
from tests.local.workshop import make_dataset, mistere_in_process, rows
from tests.serving.conftest import LABELS, clip, make_bundle, make_vectors_bundle

QUICK = ("--set", "distillation.epochs=1", "--set", "distillation.timed_dialogues=1")


def labelled() -> Iterator[tuple[Split, Utterance]]:
    """The rows of the workshop with labels that the serving tests' bundle has."""
    for split, row in rows():
        label = LABELS[(int(row.dialogue_id.partition("-")[2]) + row.turn) % len(LABELS)]
        yield split, Utterance(row.dialogue_id, row.turn, label, row.text, row.audio, row.speaker)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "tones", labelled(), labels=LABELS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("teacher"))


def distilled(teacher: str, data: Path, output: Path, *options: str) -> dict[str, Any]:
    done = mistere_in_process(
        *("distill", teacher, "--data", str(data), "--profile", "tiny", "--output", str(output), *QUICK, *options)
    )
    assert done.returncode in (0, 3), done.stderr
    assert "weighted F1 on test" in done.stdout and re.search(
        "Weighted F1 (differs from|is exactly) the teacher's", done.stdout
    )
    report: dict[str, Any] = json.loads(next(output.glob("distill/*/distill.json")).read_text())
    assert (done.returncode == 0) == (report["verdict"] == "promote")
    return report


@pytest.mark.long
def test_a_student_is_an_ordinary_bundle_with_its_teacher_in_its_lineage(
    teacher: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = distilled(teacher, data, tmp_path)
    root, digest = split_bundle_location(report["student"]["bundle"])
    bundle = open_artifact(LocalStore(Path(root)), ModelBundle, digest).manifest
    taught = split_bundle_location(teacher)[1]
    assert bundle.teacher is not None and bundle.teacher.bundle_digest == taught
    assert bundle.teacher.settings["seed"] == 0 and bundle.teacher.settings["layers"] == 1
    assert {name: made.family for name, made in bundle.encoders.items()} == {
        "speech": "whisper",
        "text": "bidirectional_text",
    }
    model = load_bundle(report["student"]["bundle"])
    (answer,) = model.predict(
        [[UtteranceInput("it is fine", clip()), UtteranceInput(None, clip()), UtteranceInput("no")]]
    )
    assert answer.probabilities.shape == (3, len(LABELS)) and answer.modalities == ["speech+text", "speech", "text"]
    assert taught in (Path(report["student"]["bundle"]) / "README.md").read_text(encoding="utf-8")
    for one in (report["teacher"], report["student"]):
        assert one["size_mb"] > 0 and one["turn_ms"] > 0 and one["peak_mb"] > 50
    assert report["difference"]["low"] <= report["difference"]["value"] <= report["difference"]["high"]
    again = distilled(teacher, data, tmp_path)
    timed = ("speedup", "goals", "teacher", "student")
    assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in report.items() if k not in timed}
    assert again["student"]["bundle"] == report["student"]["bundle"]

    def fail(*_: object) -> None:
        raise MistereError("the time could not be measured (killed).")

    monkeypatch.setattr("mistere.evaluation.footprint.footprint", fail)
    untimed = distilled(teacher, data, tmp_path)
    assert untimed["verdict"] == report["verdict"] and untimed["speedup"] is None
    for name in ("teacher", "student"):
        assert untimed[name]["turn_ms"] is None and untimed["goals"]["speedup"]["met"] is None
        assert untimed[name]["weighted_f1"] == report[name]["weighted_f1"]
        on_dev = untimed[name]["dev_weighted_f1"]
        assert 0 <= on_dev["low"] <= on_dev["value"] <= on_dev["high"] and on_dev == report[name]["dev_weighted_f1"]


@pytest.mark.long
def test_a_new_store_gives_the_same_student(data: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        convolutional = ("--set", "distillation.audio_encoder=convolutional", "--set", "distillation.new_epochs=1")
        report = distilled(make_bundle(tmp_path / name), data, tmp_path / name / "output", *convolutional)
        digests.append(split_bundle_location(report["student"]["bundle"])[1])
    assert digests[0] == digests[1]


def tuned_on(teacher: str, test_digest: str, work: Path, made_of: UtteranceSet | None = None) -> str:
    """The teacher as if its encoders had been fine-tuned on a dataset with this test split."""
    root, digest = split_bundle_location(teacher)
    store = LocalStore(Path(root))
    bundle = open_artifact(store, ModelBundle, digest)
    shutil.copytree(bundle.path, work, ignore=shutil.ignore_patterns("manifest.json"))
    encoders = {
        name: made.model_copy(update={"identity": made.identity.model_copy(update={"test_digest": test_digest})})
        for name, made in bundle.manifest.encoders.items()
    }
    inputs = {}
    if made_of is not None:
        empty = work.with_name(f"{work.name}-data")
        empty.mkdir()
        inputs["utterances"] = publish(store, made_of, empty).digest
    changed = publish(store, bundle.manifest.model_copy(update={"encoders": encoders, "inputs": inputs}), work)
    return store.location(artifact_key("ModelBundle", changed.digest))


def test_data_with_another_test_split_than_the_teachers_are_refused(teacher: str, data: Path, tmp_path: Path) -> None:
    other = tuned_on(teacher, "0" * 64, tmp_path / "bundle")
    done = mistere_in_process("distill", other, "--data", str(data), "--output", str(tmp_path / "output"))
    assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
    assert "has another test split than the data that the teacher was trained on" in done.stderr
    assert not list((tmp_path / "output").rglob("distill.json"))


@pytest.mark.long
def test_data_with_a_copy_of_test_in_train_are_refused(teacher: str, tmp_path: Path) -> None:
    """They would be learnt by heart, and the comparison on test would say that the student is good."""

    def leaking() -> Iterator[tuple[Split, Utterance]]:
        for split, row in labelled():
            yield split, row
            if split == "test":
                yield "train", replace(row, dialogue_id=f"copy-{row.dialogue_id}", speaker=f"train-{row.turn}")

    rows_of = sorted(leaking(), key=lambda row: row[0])
    leaked = make_dataset(tmp_path / "leaked", iter(rows_of), labels=LABELS)
    output = tmp_path / "output"
    done = mistere_in_process("distill", teacher, "--data", str(leaked), "--profile", "tiny", "--output", str(output))
    sentence = done.stderr.splitlines()[-1]  # a slow machine prints progress before
    assert done.returncode == 4 and sentence.startswith("mistere: "), done.stderr
    assert "tones is rejected, as a run would reject it: 4 dialogues are also in another split" in sentence
    assert Path(sentence.partition("; the report is ")[2].removesuffix(".")).is_file()
    assert not list(output.rglob("distill.json"))


@pytest.mark.long
def test_the_limits_of_the_teachers_data_hold_for_other_data(
    teacher: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def vectors(_: object, utterances: ArtifactHandle[UtteranceSet], *__: object) -> None:
        raise MistereError(f"{utterances.manifest.max_dialogues} of {sum(utterances.manifest.dialogues.values())}.")

    monkeypatch.setattr(StudentSteps, "vectors", vectors)
    pinned = pin(str(data), str(tmp_path / "remote"))
    limited = describe(pinned.remote, pinned.digest, 9)
    made = tuned_on(teacher, limited.test_digest, tmp_path / "bundle", limited)
    arguments = ("--data", str(data), "--profile", "tiny", "--output", str(tmp_path / "output"))
    assert "9 of 9." in mistere_in_process("distill", made, *arguments).stderr
    others = tuned_on(teacher, "0" * 64, tmp_path / "other", limited)
    done = mistere_in_process("distill", others, *arguments)
    assert done.returncode == 4 and "of the teacher's, 9 dialogues were drawn by their names" in done.stderr


@pytest.mark.long
def test_a_recording_that_does_not_decode_is_left_out_of_the_timing(teacher: str, tmp_path: Path) -> None:
    broken = (
        (split, replace(row, audio=b"RIFF no audio") if row.dialogue_id == "test-0" else row)
        for split, row in labelled()
    )
    pinned = pin(str(make_dataset(tmp_path / "broken", broken, labels=LABELS)), str(tmp_path / "remote"))
    root, _ = split_bundle_location(teacher)
    (tmp_path / "empty").mkdir()
    utterances = publish(LocalStore(Path(root)), describe(pinned.remote, pinned.digest), tmp_path / "empty")
    cost = footprint(teacher, root, utterances.digest, 2)
    assert cost.turns == 8 and cost.turn_ms > 0 and cost.peak_mb > 50


def test_what_cannot_be_distilled_is_one_sentence(teacher: str, tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    vectors = make_vectors_bundle(tmp_path / "vectors", {"text": 8}, {})
    others = make_dataset(tmp_path / "others")
    output = ("--output", str(tmp_path / "output"))
    for arguments, code, words in (
        ((vectors, *output), 2, "takes vectors and has no encoders"),
        ((teacher, *output), 2, "does not say what data"),
        ((teacher, *output, "--data", str(others)), 4, "tones has the labels calm, glad, cross, the teacher anger"),
        ((str(tmp_path), *output), 2, "there is no bundle at"),
        (output, 2, "nothing is deployed"),
        ((teacher, *output, "--set", "distillation.layers=0"), 2, "distillation.layers"),
        (
            (teacher, *output, "--set", "mixture.hidden=8"),
            2,
            "this command uses only distillation, evaluation, validation",
        ),
    ):
        done = mistere_in_process("distill", *arguments)
        assert done.returncode == code and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
