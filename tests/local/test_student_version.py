"""A student is a version of the registry that waits: approved, served, rolled back, rejected, and the same version again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.common.paths import sqlite_url
from mistere.registry.lineage import read_lineage
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.run_logging import TAG_PREFIX
from mistere.registry.release.candidates import read_candidate
from mistere.registry.release.champion import read_champion
from mistere.serving.deployment import read_deployment
from tests.local.servers import mlflow_server
from tests.local.workshop import Run, mistere_in_process

pytestmark = pytest.mark.long
DISTIL = (
    *("distill", "--profile", "tiny", "--set", "distillation.epochs=1", "--set", "distillation.timed_dialogues=1"),
    *("--set", "gate.allow_uncommitted=true"),
)
WITHIN = ("--set", "distillation.margin=1")


@dataclass(frozen=True)
class Registry:
    """An output directory with a released model, and its MLflow server."""

    output: Path
    tracking: str

    def call(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = mistere_in_process(*arguments, "--output", str(self.output), "--tracking", self.tracking)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def versions(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.call("models", "--json").stdout)
        return listed

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.output / "store")

    @property
    def champion(self) -> str:
        champion = read_champion(self.store).champion
        return champion.model_version if champion else ""


@pytest.fixture(scope="module")
def registry(first: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    work = tmp_path_factory.mktemp("student")
    output = shutil.copytree(first.output, work / "output")
    database = sqlite_url(output / "mlflow.db")
    Registry(output, database).versions()  # makes the copied database name its own files
    with mlflow_server(database, work / "server") as address:
        yield Registry(output, address)


def test_a_student_waits_is_approved_and_rolled_back(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = registry.versions()[0]
    assert teacher["teacher"] is None and "student of" not in registry.call("models").stdout

    def unreachable(*_: object, **__: object) -> None:
        raise MistereError("MLflow does not answer.")

    # as where the process is killed between the candidate's record and its version
    with monkeypatch.context() as patch:
        patch.setattr("mistere.registry.mlflow.model_registry.register", unreachable)
        assert "MLflow does not answer" in registry.call(*DISTIL, *WITHIN, code=1).stderr
    assert len(registry.versions()) == 1

    made = registry.call(*DISTIL, *WITHIN).stdout
    assert "The model is registered as version 2 of mistere and waits for approval." in made
    assert "approve  mistere approve mistere/2 --reason '…' --tracking" in made
    version = registry.versions()[0]
    assert (version["version"], version["state"], version["verdict"]) == ("2", "waiting", "promote")
    assert version["teacher"]["bundle_digest"] == teacher["bundle_digest"] and version["teacher"]["version"] == "1"
    assert version["teacher"]["comparison"]["bound"] == -1 and version["teacher"]["size_mb"] > 0
    assert version["weighted_f1"] is not None
    shown = registry.call("models").stdout
    assert "student of" in shown and "version 1" in shown
    assert re.search("It is a student of version 1. Weighted F1 (differs from|is exactly) the teacher's", shown)
    with connected(registry.tracking) as client:
        found = client.get_model_version("mistere", "2")
        assert found.tags[f"{TAG_PREFIX}teacher"] == teacher["bundle_digest"]
        assert found.tags[f"{TAG_PREFIX}margin"] == "1.0" and float(found.tags[f"{TAG_PREFIX}size_mb"]) > 0
        assert "A student of version 1." in found.description
        run = client.get_run(found.run_id)
        assert {"test.weighted_f1", "student.size_mb", "teacher.turn_ms", "student.speedup"} <= set(run.data.metrics)
    assert read_lineage(registry.store, version["bundle_digest"]).teacher is not None

    again = registry.call(*DISTIL, *WITHIN).stdout
    assert "version 2 of mistere" in again and len(registry.versions()) == 2

    registry.call("promote", "2", code=1)
    approved = registry.call("approve", "mistere", "--reason", "Small enough for the telephone").stdout
    assert "Version 2 of mistere is the champion and deployed instead of version 1." in approved
    deployment = read_deployment(registry.store, "mistere")
    assert deployment.bundle_digest == version["bundle_digest"] and registry.champion == "2"
    assert "is a student of" in registry.call(*DISTIL, code=2).stderr, "the deployed one is not distilled again"
    history = json.loads(registry.call("models", "--history", "--json").stdout)
    assert history[-1]["version"] == "2" and history[-1]["difference"] is not None
    replayed = registry.call("replay", "2", code=1).stderr
    assert "is a student of version 1, and only retrainings are replayed" in replayed and replayed.count("\n") == 1
    registry.call("compare", "2", "1")
    assert "none: a student of version 1" in (registry.output / "compare.html").read_text()

    rolled = registry.call("rollback").stdout
    assert "Version 1 of mistere is the champion" in rolled and registry.champion == "1"
    assert registry.versions()[0]["state"] == "released"


def test_a_student_that_is_not_shown_to_be_within_its_margin_waits_too_and_can_be_rejected(registry: Registry) -> None:
    location = registry.store.location(f"artifacts/ModelBundle/{read_champion(registry.store).digest}")
    seed = ("--set", "distillation.seed=3", "--set", "distillation.margin=0")
    done = mistere_in_process(
        *DISTIL, location, *seed, "--output", str(registry.output), "--tracking", registry.tracking
    )
    assert done.returncode in (0, 3), done.stderr
    digest = json.loads(next(registry.output.glob("distill/*/distill.json")).read_text())["student"]["bundle"][-64:]
    candidate = read_candidate(registry.store, digest)
    if "rejected" in done.stdout or candidate is None:  # shown to be worse, as the gate rejects a model
        assert done.returncode == 3 and "It is not registered" in done.stdout
        assert digest not in {one["bundle_digest"] for one in registry.versions()}
        return
    assert candidate.comparison is not None and candidate.waits
    version = next(one for one in registry.versions() if one["bundle_digest"] == digest)
    registry.call("reject", f"mistere/{version['version']}", "--reason", "Not needed")
    refused = mistere_in_process(
        *DISTIL, location, *seed, "--output", str(registry.output), "--tracking", registry.tracking
    )
    assert refused.returncode == 3 and "rejected version" in refused.stdout


def test_without_a_registry(registry: Registry) -> None:
    away = mistere_in_process(*DISTIL, "--output", str(registry.output), "--tracking", "http://127.0.0.1:9")
    assert away.returncode == 1 and away.stderr.count("\n") == 1 and "127.0.0.1:9" in away.stderr
    before = len(registry.versions())
    alone = mistere_in_process(*DISTIL, *WITHIN, "--no-register", "--output", str(registry.output))
    assert alone.returncode == 0 and "registered" not in alone.stdout and len(registry.versions()) == before
