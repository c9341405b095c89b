"""The distillation pipeline under kfp's local runner: the same student as the command, as a version that waits for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import EmbeddingSet, ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode
from mistere.common.paths import sqlite_url
from mistere.data.versions import pin
from mistere.engine.stage import RunContext
from mistere.registry.lineage import read_lineage
from mistere.registry.mlflow.model_registry import registered_versions
from mistere.registry.release.candidates import standing
from mistere.registry.release.champion import Champion, move_champion, read_champion
from mistere.runs.outcome import read_outcome, report_key
from pipelines.profiles import load_profile, pipeline_arguments
from tests.local.test_distill import labelled
from tests.local.workshop import make_dataset, mistere_in_process, run_pipeline
from tests.serving.conftest import LABELS, make_bundle

pytestmark = pytest.mark.long
SETTINGS = [
    *("distillation.epochs=1", "distillation.margin=1", "distillation.timed_dialogues=1"),
    *("gate.allow_uncommitted=true", "evaluation.resamples=200"),
]


def test_the_pipeline_makes_the_student_of_the_command(tmp_path: Path) -> None:
    teacher = make_bundle(tmp_path)
    store, digest = LocalStore(tmp_path / "store"), teacher.rpartition("/")[2]
    data = make_dataset(tmp_path / "tones", labelled(), labels=LABELS)
    pinned = pin(str(data), str(tmp_path / "remote"))
    tracking = sqlite_url(tmp_path / "mlflow.db")
    context = RunContext(
        run_id="student", store=store.uri, tracking_uri=tracking, data_remote=pinned.remote, data_digest=pinned.digest
    )

    nobody = run_pipeline(
        tmp_path / "nobody", "distillation", arguments(context.model_copy(update={"run_id": "nobody"}))
    )
    assert nobody.returncode != 0
    assert "no model has been released" in read_outcome(store, "nobody").reasons[0]

    champion = Champion(
        bundle_digest=digest, evaluation_digest="e" * 64, model_name="mistere", model_version="7", run_id="r", moved_at=0.0
    )  # fmt: skip
    move_champion(store, read_champion(store), champion)
    done = run_pipeline(tmp_path / "run", "distillation", arguments(context))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    outcome = read_outcome(store, "student")
    assert (outcome.verdict, outcome.exit_code) == ("waiting", int(ExitCode.WAITING)), outcome.reasons
    assert [one.task for one in outcome.stages] == [
        *("plan_distillation", "pull_data", "validate_data", "open_teacher"),
        *("embed_shard-speech", "embed_shard-text", "extract_embeddings-speech", "extract_embeddings-text"),
        *("distill_encoder-speech", "distill_encoder-text"),
        *("embed_shard-speech-student", "embed_shard-text-student"),
        *("extract_embeddings-speech-student", "extract_embeddings-text-student"),
        *("distill_mixture", "evaluate_model"),
        *("gate_model", "register_model", "report_run"),
    ]
    embedded = {one.task: one.outputs["embeddings"] for one in outcome.stages if one.stage == "extract_embeddings"}
    taught = open_artifact(store, EmbeddingSet, embedded["extract_embeddings-text"]).manifest.encoder
    learnt = open_artifact(store, EmbeddingSet, embedded["extract_embeddings-text-student"]).manifest.encoder
    assert taught.digest == "t" * 64 and learnt.digest not in {"", taught.digest}
    (version,) = registered_versions(tracking, "mistere")
    bundle = open_artifact(store, ModelBundle, version.bundle_digest).manifest
    assert bundle.teacher is not None and bundle.teacher.bundle_digest == digest
    assert version.tags["teacher"] == digest and "differs from the teacher's" in version.tags["comparison"]
    lineage = read_lineage(store, version.bundle_digest)
    assert lineage.teacher is not None and lineage.run.run_id == "student"
    assert standing(store, version.bundle_digest).state == "waiting"
    page = store.read(report_key("student", "run_report.html"))[0].decode()
    assert "turning text into vectors for the student" in page and "embed_shard-text-student" in page
    assert "waits for approval" in page and "teacher_comparison" in page.replace("-", "_").replace(" ", "_")

    command = ("distill", teacher, "--data", str(data), "--profile", "tiny", "--output", str(tmp_path), "--no-register")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    made = mistere_in_process(*command, *settings)
    assert made.returncode == 0, made.stderr
    assert f"student  {store.location(f'artifacts/ModelBundle/{version.bundle_digest}')}" in made.stdout


def arguments(context: RunContext) -> dict[str, Any]:
    return pipeline_arguments(load_profile("tiny", SETTINGS), context, "distillation")
