"""The scoring pipeline under kfp's local runner: the same scores as the command, in any number of tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.processes.run_locks import stage_environment
from mistere.data.versions import pin
from mistere.registry.release.champion import Champion, move_champion, read_champion
from mistere.reports.wording import headline
from mistere.runs.outcome import read_outcome
from pipelines.cli.commands.score import score
from pipelines.cli.output.gate_table import markdown
from tests.local.workshop import ROOT
from tests.serving.conftest import make_bundle
from tests.serving.test_scoring import archive_rows, close, turns_of, write_archive

pytestmark = pytest.mark.long


def run_pipeline(folder: Path, context: dict[str, Any], section: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the pipeline as ``mistere run`` runs the other one."""
    folder.mkdir()
    (folder / "arguments.json").write_text(json.dumps({"run": context, "scoring": section}))
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pipelines.local_runner",
            str(folder / "arguments.json"),
            str(folder / "kfp"),
            "scoring",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **stage_environment(folder, folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_pipeline_gives_the_scores_of_the_command(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, ("text",))
    store = LocalStore(tmp_path / "store")
    digest = bundle.rpartition("/")[2]
    champion = Champion(
        bundle_digest=digest,
        evaluation_digest="e" * 64,
        model_name="mistere",
        model_version="7",
        run_id="r",
        moved_at=0.0,
    )
    move_champion(store, read_champion(store), champion)
    data = write_archive(tmp_path / "data", archive_rows(20), 3)
    score(str(data), None, {"by": ["queue"], "time": "begun", "cache": "off"}, tmp_path, tmp_path / "scores")

    pinned = pin(str(data), str(tmp_path / "remote"))
    context = {
        "run_id": "scores", "store": store.uri, "tracking_uri": "sqlite:///none.db",
        "data_remote": pinned.remote, "data_digest": pinned.digest,
    }  # fmt: skip
    section = {"by": ["queue"], "time": "begun", "shards": 2}
    done = run_pipeline(tmp_path / "run", context, section)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    outcome = read_outcome(store, "scores")
    assert (outcome.verdict, outcome.exit_code) == ("scored", 0)
    assert headline(outcome) == "The archive was scored." and "The archive was scored" in markdown(store, "scores")
    assert [one.task for one in outcome.stages] == [
        "plan_scoring", "score_shard-1of2", "score_shard-2of2", "summarise_scores",
    ]  # fmt: skip
    assert Path(outcome.report).name == "scores.html" and "By <bdi>queue</bdi>" in Path(outcome.report).read_text()
    calls = next((store.root / "artifacts" / "ArchiveScores").glob("*/calls.parquet"))
    assert close(pq.read_table(calls).to_pylist(), pq.read_table(tmp_path / "scores" / "calls.parquet").to_pylist())
    scored = [row for part in (store.root / "artifacts" / "ScoredShards").iterdir() for row in turns_of(part)]
    mine = sorted(scored, key=lambda row: (row["dialogue_id"], row["turn"]))
    assert close(mine, turns_of(tmp_path / "scores")) and {row["model_version"] for row in mine} == {"7"}

    again = run_pipeline(tmp_path / "again", {**context, "run_id": "again"}, section)
    assert again.returncode == 0
    assert {one.status for one in read_outcome(store, "again").stages if one.stage != "plan_scoring"} == {"reused"}
    wrong = run_pipeline(tmp_path / "wrong", {**context, "run_id": "wrong"}, {**section, "by": ["qeue"]})
    assert wrong.returncode != 0
    assert "no column 'qeue'; did you mean 'queue'" in read_outcome(store, "wrong").reasons[0]
