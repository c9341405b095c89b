"""The scoring pipeline under kfp's local runner: the same scores as the command, in any number of tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.data.versions import pin
from mistere.registry.release.champion import Champion, move_champion, read_champion
from mistere.reports.wording import headline
from mistere.runs.outcome import read_outcome, report_key
from pipelines.cli.commands.score import score
from pipelines.cli.output.gate_table import markdown
from tests.local.workshop import run_pipeline
from tests.serving.conftest import make_bundle
from tests.serving.test_scoring import archive_rows, close, turns_of, write_archive
from tests.unit.runs.test_notification import Receiver, receiver, visible_text  # noqa: F401  (a fixture)

pytestmark = pytest.mark.long


def reported(store: LocalStore, run_id: str) -> str:
    """The text of a run's report."""
    page = store.read(report_key(run_id, "run_report.html"))[0].decode()
    assert "There are no test metrics" not in page and "previous champion" not in page and "was not written" not in page
    return page


def test_the_pipeline_gives_the_scores_of_the_command(
    tmp_path: Path,
    receiver: Receiver,  # noqa: F811  (the fixture)
) -> None:
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
    done = run_pipeline(tmp_path / "run", "scoring", {"run": context, "scoring": section})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    outcome = read_outcome(store, "scores")
    assert (outcome.verdict, outcome.exit_code) == ("scored", 0)
    assert headline(outcome) == "The archive was scored." and "The archive was scored" in markdown(store, "scores")
    assert [one.task for one in outcome.stages] == [
        "plan_scoring", "score_shard-1of2", "score_shard-2of2", "summarise_scores", "report_run",
    ]  # fmt: skip
    assert Path(outcome.report).name == "scores.html" and "By <bdi>queue</bdi>" in Path(outcome.report).read_text()
    calls = next((store.root / "artifacts" / "ArchiveScores").glob("*/calls.parquet"))
    assert close(pq.read_table(calls).to_pylist(), pq.read_table(tmp_path / "scores" / "calls.parquet").to_pylist())
    scored = [row for part in (store.root / "artifacts" / "ScoredShards").iterdir() for row in turns_of(part)]
    mine = sorted(scored, key=lambda row: (row["dialogue_id"], row["turn"]))
    assert close(mine, turns_of(tmp_path / "scores")) and {row["model_version"] for row in mine} == {"7"}

    again = run_pipeline(tmp_path / "again", "scoring", {"run": {**context, "run_id": "again"}, "scoring": section})
    assert again.returncode == 0
    rerun = read_outcome(store, "again").stages
    assert {one.status for one in rerun if one.stage not in {"plan_scoring", "report_run"}} == {"reused"}
    assert "The archive was scored." in reported(store, "scores") and "scores.html" in reported(store, "scores")
    data = json.loads(store.read(report_key("scores", "run_report.json"))[0])
    assert data["outcome"]["verdict"] == "scored" and set(data["costs"]["stages"]) == {
        one.task for one in outcome.stages[:4]
    }
    wrong = run_pipeline(
        tmp_path / "wrong", "scoring", {"run": {**context, "run_id": "wrong"}, "scoring": {**section, "by": ["qeue"]}}
    )
    assert wrong.returncode != 0
    assert "no column 'qeue'; did you mean 'queue'" in read_outcome(store, "wrong").reasons[0]
    assert "did you mean" in reported(store, "wrong") and "There are no scores of this run" in reported(store, "wrong")
    sent = [visible_text(message) for message in receiver.taken]
    assert len(sent) == 3 and "The archive was scored." in sent[0] and "scores.html" in sent[0]
    assert ":rotating_light:" in sent[2] and "did you mean" in sent[2] and "run_report.html" in sent[2]
    assert not (tmp_path / "none.db").exists(), "a scoring is no run in MLflow"
