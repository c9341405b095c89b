"""``mistere doctor --pipeline distillation``: the teacher, and not what only a retraining needs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from mistere.artifacts.identities import EncoderDescription, Teacher
from mistere.artifacts.io import publish
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.registry.release.champion import Champion, move_champion, read_champion
from pipelines.cli.doctor.checks import run_checks
from pipelines.cli.doctor.groups import teacher
from pipelines.cli.doctor.plan import Plan, make_plan
from pipelines.cli.doctor.result import CheckResult
from tests.cluster.doctor_checks import results_of


def plan(store: LocalStore, *settings: str) -> Plan:
    return make_plan("tiny", settings, None, store.uri, None, "distillation")


def checked(store: LocalStore, *settings: str) -> CheckResult:
    return results_of(teacher.group(plan(store, *settings)))["bundle"]


def bundle(store: LocalStore, lesson: Teacher | None = None, modality: str = "text") -> str:
    folder = store.root.parent / f"bundle-{modality}-{bool(lesson)}"
    folder.mkdir()
    made = ModelBundle(
        name="calls", labels=["a", "b"], experts=[modality], encoders={modality: EncoderDescription()}, temperature=1.0,
        test_digest="t" * 64, metrics={}, dvc_digest="c" * 32, teacher=lesson,
    )  # fmt: skip
    return publish(store, made, folder).digest


def release(store: LocalStore, digest: str) -> None:
    champion = Champion(
        bundle_digest=digest, evaluation_digest="e" * 64, model_name="calls", model_version="1", run_id="r", moved_at=0.0
    )  # fmt: skip
    move_champion(store, read_champion(store), champion)


def test_the_teacher_is_checked_instead_of_data_and_encoders_of_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    store = LocalStore(tmp_path / "store")
    names = [name for name, _ in islice(run_checks(plan(store)), 4)]
    assert "Teacher" in names and "Data" not in names and "Encoders" not in names
    assert checked(store).status == "failed" and "no model has been released" in checked(store).sentence

    digest = bundle(store)
    release(store, digest)
    assert checked(store).sentence == f"{digest[:12]}, the champion."
    student = bundle(store, Teacher(bundle_digest=digest))
    release(store, student)
    assert "is a student of" in checked(store).sentence and checked(store).status == "failed"
    assert checked(store, f"distillation.teacher={digest}").sentence == f"{digest[:12]}."
    other = bundle(store, modality="faces")
    assert "reads faces" in checked(store, f"distillation.teacher={other}").sentence
