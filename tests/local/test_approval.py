"""A person decides: runs that wait, ``mistere approve`` and ``mistere reject``, with the registry on a real MLflow server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.paths import sqlite_url
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.run_logging import TAG_PREFIX
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import PromotionEvent, read_log
from mistere.serving.deployment import read_deployment
from tests.local.servers import mlflow_server
from tests.local.workshop import ROOT, Run, mistere, mistere_in_process

pytestmark = pytest.mark.long
WAITS = ("--set", "registry.release=approval")


@dataclass(frozen=True)
class Office:
    """A committed tree, its data, an output directory and an MLflow server."""

    tree: Path
    data: Path
    output: Path
    tracking: str

    def run(self, *settings: str) -> Run:
        command = ["run", "--profile", "tiny", "--data", str(self.data), "--output", str(self.output)]
        done = mistere(*command, "--tracking", self.tracking, *settings, root=self.tree)
        return Run(done.returncode, done.stdout + done.stderr, self.output)

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return mistere_in_process(*arguments, "--output", str(self.output), "--tracking", self.tracking)

    def command(self, *arguments: str) -> list[str]:
        options = ("--output", str(self.output), "--tracking", self.tracking)
        return [sys.executable, "-m", "mistere", *arguments, *options]

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.output / "store")

    @property
    def champion(self) -> str:
        champion = read_champion(self.store).champion
        return champion.model_version if champion else ""

    def states(self) -> dict[str, str]:
        return {row["version"]: row["state"] for row in json.loads(self.call("models", "--json").stdout)}

    def decisions(self) -> list[PromotionEvent]:
        return [event for event in read_log(self.store).events if event.outcome == "done"]

    def tags(self, version: str) -> dict[str, Any]:
        with connected(self.tracking) as client:
            tags = client.get_model_version("mistere", version).tags
        return {name.removeprefix(TAG_PREFIX): value for name, value in tags.items()}


@pytest.fixture(scope="module")
def office(tree: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("approval")
    with mlflow_server(sqlite_url(folder / "mlflow.db"), folder / "server") as tracking:
        yield Office(tree, data, folder / "output", tracking)


def one_line(result: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    assert result.returncode == code and text in result.stderr, result
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_a_run_waits_and_a_person_releases_its_model(office: Office) -> None:
    waiting = office.run(*WAITS)
    assert waiting.code == 6, waiting.text
    assert "WAITING" in waiting.text and "registered as version 1 of mistere and waits for approval" in waiting.text
    assert "approve mistere/1 --reason" in waiting.text and office.champion == ""
    assert "deploy_model" not in waiting.stages and waiting.stages["register_model"]["status"] == "done"
    report = json.loads((waiting.folder / "reports" / "run_report.json").read_text())
    assert report["outcome"]["verdict"] == "waiting" and report["outcome"]["candidate"] == "mistere/1"
    page = (waiting.folder / "reports" / "run_report.html").read_text()
    assert "passed the gate and waits for approval" in page and "mistere/1" in page
    table = office.call("models").stdout
    assert "waiting" in table and "mistere approve mistere/1 --reason" in table
    assert office.tags("1")["verdict"] == "promote"

    one_line(
        office.call("promote", "1"), 1, "waits for approval: decide on it with `mistere approve mistere/1 --reason"
    )
    one_line(office.call("approve", "1", "--reason", " "), 2, "--reason is empty")
    one_line(office.call("approve", "7", "--reason", "x"), 2, "there is no '7'")
    assert office.call("approve", "1").returncode == 2, "the reason is required"
    approved = office.call("approve", "mistere", "--reason", "Listened to it")
    assert approved.returncode == 0, approved.stderr
    assert "Version 1 of mistere is the champion and deployed" in approved.stdout
    assert office.champion == read_deployment(office.store, "mistere").model_version == "1"
    (event,) = office.decisions()
    assert (event.action, event.reason, event.version) == ("approve", "Listened to it.", "1") and "@" in event.by
    assert office.tags("1")["decision"] == "approved"
    assert office.states() == {"1": "released"}
    again = office.call("approve", "1", "--reason", "Twice")
    assert again.returncode == 0 and "is the champion already and stays deployed" in again.stdout
    one_line(office.call("reject", "1", "--reason", "Too late"), 2, "is the champion: `mistere rollback`")


def test_what_the_gate_holds_is_a_candidate_that_can_be_rejected_and_stays_rejected(office: Office) -> None:
    settings = ("--set", "mixture.seed=1", "--set", "gate.champion_margin=0", "--set", "gate.champion_mode=superiority")
    held = office.run(*settings)
    assert held.code == 3 and "HELD" in held.text, held.text
    assert "registered as version 2 of mistere and waits for approval" in held.text and office.champion == "1"
    assert office.states() == {"1": "released", "2": "waiting"}
    assert office.tags("2")["verdict"] == "hold"
    reason = "Weighted F1 (differs .* undecided whether it is|is exactly the champion's: not) better than the champion"
    assert re.search(reason, office.call("models").stdout)
    table = mistere_in_process("gate-table", held.folder.name, "--output", str(office.output)).stdout
    assert "mistere approve mistere/2" in table
    rejected = office.call("reject", "2", "--reason", "Too small a test split")
    assert rejected.returncode == 0, rejected.stderr
    assert office.states()["2"] == "rejected" and office.champion == "1"
    one_line(
        office.call("reject", "2", "--reason", "Again"),
        1,
        "rejected version 2 of mistere before: Too small a test split.",
    )
    one_line(office.call("promote", "2"), 1, "was rejected by")
    passing = office.run("--set", "mixture.seed=1")
    assert passing.code == 3 and "REJECTED" in passing.text, passing.text
    assert "Too small a test split." in passing.text and office.champion == "1"
    approved = office.call("approve", "2", "--reason", "The split is large enough")
    assert approved.returncode == 0 and "had rejected version 2" in approved.stdout, approved
    assert office.champion == "2" and office.call("rollback").returncode == 0 and office.champion == "1"
    one_line(office.call("approve", "2", "--reason", "x"), 2, "was released before")


def test_a_model_of_uncommitted_code_cannot_be_approved_unless_the_profile_says_so(office: Office) -> None:
    before = office.champion
    file = office.tree / "pipelines" / "new_module.py"
    file.write_text("")
    try:
        settings = ("--set", "gate.allow_uncommitted=false", "--set", "mixture.seed=2")
        held = office.run(*settings)
        assert held.code == 3 and "which the profile lets nobody approve" in held.text, held.text
        assert "approve mistere/3" not in held.text
        refused = office.call("approve", "3", "--reason", "Trust me")
        one_line(refused, 1, "cannot be approved: The code of this model has uncommitted changes")
        assert "sets gate.approve_uncommitted to true" in refused.stderr and office.champion == before
        assert "lets nobody approve it" in office.call("models").stdout
        allowed = office.run(*settings, "--set", "gate.approve_uncommitted=true")
        assert allowed.code == 3 and "version 3 of mistere and waits for approval" in allowed.text, allowed.text
    finally:
        file.unlink()
    assert office.call("approve", "3", "--reason", "A trial").returncode == 0 and office.champion == "3"
    assert office.call("rollback").returncode == 0
    assert office.call("promote", "3").returncode == 0, "an approved model can be promoted again"


def test_an_anchor_is_compared_with_and_must_exist(office: Office) -> None:
    unknown = office.run("--set", "gate.anchor=mistere/99")
    assert unknown.code == 2 and "gate.anchor=mistere/99: there is no 'mistere/99'" in unknown.text, unknown.text
    compared = office.run("--set", "gate.anchor=mistere/1", "--set", "gate.anchor_margin=1", "--set", "mixture.seed=4")
    assert compared.code == 0, compared.text
    assert re.search("Weighted F1 (differs from|is exactly) the anchor's", compared.text)
    metrics = json.loads((compared.folder / "reports" / "metrics.json").read_text())
    assert metrics["anchor.difference.weighted_f1.low"] <= metrics["anchor.difference.weighted_f1"]
    assert any(name.startswith("champion.slice.") for name in metrics)


def test_two_approvals_at_once_and_one_that_is_killed(office: Office) -> None:
    waiting = office.run(*WAITS, "--set", "mixture.seed=5")
    assert waiting.code == 6, waiting.text
    version = max(office.states(), key=int)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(who: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            office.command("approve", version, "--reason", f"Says {who}"), cwd=ROOT, text=True,
            env={**environment, "MISTERE_ACTOR": who}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    killed = start("eve")
    journal = office.store.local_path("deployments/mistere/journal.json")
    earlier = journal.read_bytes()
    deadline = time.monotonic() + 120
    while killed.poll() is None and journal.read_bytes() == earlier and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    both = [start(who) for who in ("ann", "bob")]
    ended = [process.communicate() for process in both]
    assert office.champion == read_deployment(office.store, "mistere").model_version == version, ended
    done = [event for event in office.decisions() if event.version == version]
    assert len(done) == 1 and done[0].action == "approve"
    losers = [errors for (_, errors), process in zip(ended, both, strict=True) if process.returncode]
    assert all(len(errors.strip().splitlines()) == 1 for errors in losers), losers
    assert office.states()[version] == "released"
    assert office.call("approve", version, "--reason", "Once more").returncode == 0
