"""The outcome of a run, read from its records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mistere.artifacts.io import read_manifest
from mistere.artifacts.manifests import EvaluationReport, GateVerdict
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError
from mistere.engine.stage import stage_record_key
from mistere.runs.outcome import read_outcome, read_run_info
from mistere.runs.tasks import ordered_tasks
from tests.unit.runs import recorded_runs as runs

EXPECTED = {
    "deployed": (0, "deployed", "surely above the minimum"),
    "reused": (0, "deployed", "surely above the minimum"),
    "waiting": (6, "waiting", runs.WAITS),
    "held": (3, "held", runs.COMPARED),
    "rejected": (3, "rejected", runs.WORSE),
    "data rejected": (4, "data rejected", "dataset.yaml does not list"),
    "failed": (1, "failed", "the disk is full"),
    "killed": (1, "failed", "did not finish"),
}

TASKS = tuple(ordered_tasks([]))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("ending", EXPECTED)
def test_outcome_matches_each_recorded_run(ending: str, tmp_path: Path) -> None:
    run = runs.ENDINGS[ending](tmp_path / "store")
    outcome = read_outcome(run.store, run.run_id)
    exit_code, verdict, reason = EXPECTED[ending]
    assert (outcome.exit_code, outcome.verdict) == (exit_code, verdict)
    assert reason in outcome.reasons[0]
    assert outcome.unreadable == []
    reached = [record.task for record in outcome.stages]
    assert reached == [task for task in TASKS if task in reached]
    assert outcome.report.endswith(f"runs/{run.run_id}/reports/run_report.html")


@pytest.mark.parametrize("explained", [True, False])
def test_a_run_whose_attempts_were_all_killed_has_no_reason_of_a_step(explained: bool, tmp_path: Path) -> None:
    run = runs.failed(tmp_path / "store")
    failed = next(record for record in read_outcome(run.store, run.run_id).stages if record.status == "failed")
    failed = failed.model_copy(update={"exhausted": True, "explained": explained})
    run.store.write(stage_record_key(run.run_id, failed.task), failed.model_dump_json().encode())
    outcome = read_outcome(run.store, run.run_id)
    assert outcome.verdict == "failed" and outcome.unexplained is not explained
    assert any("the disk is full" in reason for reason in outcome.reasons)


def test_release_outcome_holds_metrics_bundle_and_champion(tmp_path: Path) -> None:
    outcome = read_outcome(runs.deployed(tmp_path).store, "run-0042")
    assert outcome.weighted_f1 is not None and outcome.weighted_f1.low is not None
    assert outcome.weighted_f1.low <= outcome.weighted_f1.value
    assert list(outcome.experts) == runs.EXPERTS
    assert outcome.champion_before and outcome.champion_weighted_f1 is not None
    assert outcome.champion_difference is not None
    apart = outcome.weighted_f1.value - outcome.champion_weighted_f1.value
    assert abs(outcome.champion_difference.value - apart) < 1e-6
    assert outcome.bundle.endswith(f"artifacts/ModelBundle/{outcome.bundle_digest}")
    assert outcome.mlflow == "sqlite:///mlflow.db" and "endpoint answered" in outcome.message


def test_a_model_that_waits_names_the_version_to_approve(tmp_path: Path) -> None:
    run = runs.waiting(tmp_path)
    outcome = read_outcome(run.store, run.run_id)
    assert outcome.candidate == "mistere/5" and runs.FLOOR.sentence in outcome.reasons and outcome.bundle
    run.register({}, {"waits_for": "ann rejected version 5 of mistere: No.", "state": "rejected", "next": "wait"})
    rejected = read_outcome(run.store, run.run_id)
    assert (rejected.exit_code, rejected.verdict, rejected.candidate) == (3, "rejected", "")
    assert rejected.reasons[0] == "ann rejected version 5 of mistere: No."


def test_a_held_model_is_a_candidate_once_it_is_registered(tmp_path: Path) -> None:
    run = runs.held(tmp_path)
    assert read_outcome(run.store, run.run_id).candidate == ""
    run.register({}, {"waits_for": runs.WAITS, "state": "waiting", "approvable": "mistere/5", "next": "wait"})
    outcome = read_outcome(run.store, run.run_id)
    assert (outcome.exit_code, outcome.verdict, outcome.candidate) == (3, "held", "mistere/5")
    assert outcome.reasons == [runs.COMPARED, runs.WAITS]


def test_hold_outcome_names_only_the_rules_that_held(tmp_path: Path) -> None:
    outcome = read_outcome(runs.held(tmp_path).store, "run-0042")
    assert outcome.reasons == [runs.COMPARED]


@pytest.mark.parametrize(("code", "verdict"), [(1, "failed"), (2, "failed"), (4, "data rejected"), (0, "failed")])
def test_failed_stage_outcome_follows_its_exit_code(code: int, verdict: str, tmp_path: Path) -> None:
    run = runs.RecordedRun(tmp_path)
    run.record("resolve_inputs")
    run.record("pull_data", "failed", exit_code=code, message="label 'angry' is not in dataset.yaml.")
    outcome = read_outcome(run.store, run.run_id)
    assert (outcome.exit_code, outcome.verdict) == (code or 1, verdict)
    assert outcome.reasons == ["label 'angry' is not in dataset.yaml."]


def test_outcome_reports_both_failed_branches(tmp_path: Path) -> None:
    run = runs.failed(tmp_path)
    run.record("finetune_encoder-text", "failed", exit_code=2, message="text.source is wrong.")
    outcome = read_outcome(run.store, run.run_id)
    assert outcome.exit_code == 1 and len(outcome.reasons) == 2


def test_interrupted_stage_is_reported_as_unfinished(tmp_path: Path) -> None:
    run = runs.killed(tmp_path)
    run.record("finetune_encoder-text", "running")
    outcome = read_outcome(run.store, run.run_id)
    assert outcome.exit_code == 1 and "interrupted in finetune_encoder-text" in outcome.reasons[0]
    assert "killed, most likely because memory ran out" in outcome.reasons[0]


def test_a_step_that_the_kernel_killed_before_it_left_a_record_is_named_with_the_likely_cause(tmp_path: Path) -> None:
    """As seen with a cgroup's limit of memory around embed_shard: a step without earlier progress has no record."""
    run = runs.killed(tmp_path)
    reason = read_outcome(run.store, run.run_id).reasons[0]
    assert "has no record of its end" in reason and "killed, most likely because memory ran out" in reason


def test_failed_report_does_not_change_a_release_outcome(tmp_path: Path) -> None:
    run = runs.deployed(tmp_path)
    record = (
        '{"task":"report_run","stage":"report_run","status":"failed","started":1,"exit_code":1,"message":"no disk."}'
    )
    run.store.write("runs/run-0042/stages/report_run.json", record.encode())
    outcome = read_outcome(run.store, run.run_id)
    assert outcome.exit_code == 0 and "report could not be written: no disk." in outcome.reasons[-1]


def test_a_damaged_record_of_the_last_stage_is_not_taken_for_a_killed_process(tmp_path: Path) -> None:
    run = runs.deployed(tmp_path)
    key = "runs/run-0042/stages/deploy_model.json"
    for damaged in (run.store.read(key)[0][:-9], run.store.read("runs/run-0042/stages/gate_model.json")[0]):
        run.store.write(key, damaged)
        outcome = read_outcome(run.store, run.run_id)
        assert outcome.exit_code == 1 and outcome.damaged == [run.store.location(key)]
        assert outcome.reasons[0].startswith("How the run ended is unknown: ") and key in outcome.reasons[0]


def test_unknown_run_is_reported(tmp_path: Path) -> None:
    outcome = read_outcome(LocalStore(tmp_path), "nothing")
    assert outcome.exit_code == 1 and "no stage has a record" in outcome.reasons[0]
    assert read_run_info(LocalStore(tmp_path), "nothing") == {}


def test_missing_or_damaged_records_only_omit_their_sentences(tmp_path: Path) -> None:
    run = runs.held(tmp_path)
    store = run.store
    store.delete("artifacts/GateVerdict")
    store.write("runs/run-0042/stages/train_moe.json", b"{half")
    store.write("runs/run-0042/run.json", b"[]")
    manifest = next(key for key in store.keys("artifacts/EvaluationReport") if key.endswith("manifest.json"))
    store.write(manifest, store.read(manifest)[0].replace(b'"test.accuracy": 0', b'"test.accuracy": 9'))
    outcome = read_outcome(store, run.run_id)
    assert (outcome.exit_code, outcome.reasons) == (3, ["The gate's verdict was hold."])
    assert outcome.weighted_f1 is None
    with pytest.raises(
        ArtifactError, match=r"run-0042/run.json is damaged; restore it from a copy of the store, or start"
    ):
        read_run_info(store, run.run_id)
    unreadable = " ".join(outcome.unreadable)
    assert (
        "GateVerdict" in unreadable
        and "record of train_moe is damaged" in unreadable
        and "EvaluationReport" in unreadable
    )
    with pytest.raises(ArtifactError, match="not in the store"):
        read_manifest(store, GateVerdict, "a" * 64)
    with pytest.raises(ArtifactError, match="damaged"):
        read_manifest(store, EvaluationReport, manifest.split("/")[2])


def test_reading_an_outcome_imports_no_heavy_packages() -> None:
    code = "import sys, mistere.runs.outcome as o; print([m for m in ('matplotlib','pandas','torch','numpy') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_an_optional_step_is_listed_only_where_a_run_has_it() -> None:
    usual = ordered_tasks(["pull_data", "validate_data"])
    assert "transcribe" not in usual
    with_it = ordered_tasks(["pull_data", "validate_data", "transcribe"])
    position = usual.index("validate_data") + 1
    assert with_it == [*usual[:position], "transcribe", *usual[position:]]
