"""A run on a cluster whose steps are all finished takes them over in its first pod."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode
from mistere.data.latest import LATEST, LatestData
from mistere.data.versions import pin
from mistere.engine.stage import StageRecord, stage_record_key
from mistere.registry.release.champion import read_champion
from mistere.runs.outcome import Outcome, read_outcome, report_key
from pipelines.combined_steps import release
from tests.local.compiled_pipeline import compile_without_retries, run_compiled
from tests.local.workshop import Run, make_dataset, rows

pytestmark = pytest.mark.long
TAKEN_OVER = ["pull_data", "validate_data", "finetune_encoder-speech", "finetune_encoder-text", "embed_shard-speech"]


@dataclass
class Runs:
    """Runs of one compiled pipeline on one store."""

    store: LocalStore
    pipeline: Path
    folder: Path

    def start(self, name: str, **arguments: Any) -> tuple[Outcome, str]:
        """Run the pipeline; returns the outcome, and what kfp and the steps printed."""
        environment = {"MISTERE_STORE": self.store.uri, "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}"}
        before = set(self.ids())
        log = run_compiled(self.pipeline, self.folder / name, environment, **arguments)
        (run_id,) = set(self.ids()) - before
        return read_outcome(self.store, run_id), log

    def ids(self) -> set[str]:
        return {key.split("/")[1] for key in self.store.keys("runs")}

    def record(self, run_id: str, task: str) -> StageRecord:
        return StageRecord.model_validate_json(self.store.read(stage_record_key(run_id, task))[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    store = LocalStore(folder / "store")
    pinned = pin(str(make_dataset(folder / "tones", rows())), str(folder / "remote"))
    latest = LatestData(digest=pinned.digest, remote=pinned.remote, published_at=1.0)
    LATEST.move(store, LATEST.read(store).version, latest)
    return Runs(
        store, compile_without_retries("tiny", ["gate.min_over_majority=0.999"], folder / "pipeline.yaml"), folder
    )


def test_a_finished_model_is_registered_and_deployed_in_one_step(first: Run) -> None:
    """What the step after ``resolve_inputs`` does where the gate promotes; here with a local deployment."""
    store = LocalStore(first.output / "store")
    (run_id,) = {key.split("/")[1] for key in store.keys("runs")}
    before = read_outcome(store, run_id)
    context = {"run_id": "again", "store": store.uri, "tracking_uri": f"sqlite:///{first.output / 'mlflow.db'}"}
    finished = {record.task: record.outputs for record in before.stages}
    release(context, {}, {"mode": "local"}, read_champion(store).digest, finished)
    registered, deployed = (
        StageRecord.model_validate_json(store.read(stage_record_key("again", task))[0])
        for task in ("register_model", "deploy_model")
    )
    assert registered.status == deployed.status == "done"
    assert registered.outputs["bundle"] == before.bundle_digest == read_champion(store).digest
    assert registered.values["model_version"] == "1"  # of the run that made the model: no second version
    assert deployed.values["message"] == "This bundle is the champion already and stays deployed."
    store.delete("runs/again")


def test_a_finished_model_that_waits_is_registered_and_not_deployed(first: Run) -> None:
    """The same step where a person decides: the champion's bundle is another one, and nobody has released this one."""
    store = LocalStore(first.output / "store")
    (run_id,) = {key.split("/")[1] for key in store.keys("runs")}
    finished = {record.task: record.outputs for record in read_outcome(store, run_id).stages}
    champion, log = store.read("champion.json")[0], {key: store.read(key)[0] for key in store.keys("promotions")}
    context = {"run_id": "waits", "store": store.uri, "tracking_uri": f"sqlite:///{first.output / 'mlflow.db'}"}
    store.delete("promotions")
    try:
        store.delete_object("champion.json")
        release(context, {"release": "approval"}, {"mode": "local"}, "none", finished)
        assert store.exists(stage_record_key("waits", "register_model"))
        assert not store.exists(stage_record_key("waits", "deploy_model")) and read_champion(store).champion is None
        registered = StageRecord.model_validate_json(store.read(stage_record_key("waits", "register_model"))[0])
        assert (
            registered.values["waits_for"] == "The model is registered as version 1 of mistere and waits for approval."
        )
    finally:
        store.write("champion.json", champion)
        for key, event in log.items():
            store.write(key, event)
        store.delete("runs/waits")
        store.delete("candidates")


def executed(log: str) -> int:
    """The number of steps that kfp executed."""
    return log.count("Executing task")


def test_the_second_run_takes_over_every_step_of_the_first(runs: Runs) -> None:
    first, log = runs.start("first")
    assert first.exit_code == ExitCode.NOT_PROMOTED and first.verdict == "rejected", log
    assert executed(log) == 11, log
    second, log = runs.start("second")
    assert (second.verdict, second.reasons) == (first.verdict, first.reasons), log
    assert executed(log) == 2  # resolve_inputs and report_run
    tasks = [record.task for record in first.stages]
    assert [record.task for record in second.stages] == tasks and set(TAKEN_OVER) < set(tasks)
    for before, after in zip(first.stages, second.stages, strict=True):
        if before.task not in {"resolve_inputs", "report_run"}:
            assert after.status == "reused"
            assert (after.key, after.outputs, after.values) == (before.key, before.outputs, before.values)
    for name in ("metrics.json", "validation_report.html", "verdict.json", "run_report.html"):
        assert runs.store.exists(report_key(second.run_id, name))


def test_a_changed_threshold_goes_the_ordinary_way(runs: Runs) -> None:
    outcome, log = runs.start("threshold", gate={"min_over_majority": 0.998})
    assert outcome.verdict == "rejected" and executed(log) == 11
    assert runs.record(outcome.run_id, "gate_model").status == "done"
    assert runs.record(outcome.run_id, "evaluate_model").status == "reused"


def test_after_a_purge_the_missing_step_is_executed(runs: Runs) -> None:
    digest = json.loads(runs.store.read(next(key for key in runs.store.keys("steps/train_moe")))[0])["outputs"]["model"]
    runs.store.delete(f"artifacts/MoEModel/{digest}")
    outcome, log = runs.start("purged")
    assert outcome.verdict == "rejected" and executed(log) == 11
    assert runs.record(outcome.run_id, "train_moe").status == "done"
    assert runs.record(outcome.run_id, "finetune_encoder-text").status == "reused"


def test_a_compiled_run_waits_for_a_person_also_when_it_is_repeated(runs: Runs) -> None:
    settings = {"gate": {"min_over_majority": -1.0}, "registry": {"release": "approval"}}
    for name, steps in (("waits", 12), ("waits-again", 3)):  # resolve_inputs, register_model in one pod, report_run
        outcome, log = runs.start(name, **settings)
        assert (outcome.exit_code, outcome.verdict) == (ExitCode.WAITING, "waiting"), log
        assert outcome.candidate == "mistere/1" and executed(log) == steps, log
        assert outcome.record("deploy_model") is None and read_champion(runs.store).champion is None
