"""The digest that leads a run to the finished steps of an earlier one covers what determines their keys, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.resolve_inputs.rerun import WORK, inputs_digest, remaining_work
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.s3.store import S3Store
from mistere.engine.finished_run import remember
from mistere.engine.stage import RunContext, StageRecord
from pipelines.profiles import load_profile

VALUES = {
    "data_digest": "d.dir",
    "data_remote": "s3://bucket/dvc",
    "champion_digest": "none",
    "code_state": "committed",
}
CONTEXT = RunContext(run_id="run", store="s", tracking_uri="t")


def digest(*settings: str, **values: str) -> str:
    return inputs_digest(load_profile("tiny", settings), CONTEXT, {**VALUES, **values})


@pytest.mark.parametrize(
    "setting",
    [
        "gate.min_weighted_f1=0.9",
        "mixture.epochs=2",
        "speech.learning_rate=0.5",
        "text.epochs=2",
        "validation.max_seconds=5",
        "evaluation.resamples=321",
        "seed=1",
    ],
)
def test_a_setting_of_a_cached_step_changes_it(setting: str) -> None:
    assert digest(setting) not in {"", digest()}


@pytest.mark.parametrize("name", list(VALUES))
def test_what_is_outside_the_run_changes_it(name: str) -> None:
    assert digest(**{name: "other"}) not in {"", digest()}


@pytest.mark.parametrize(
    "setting", ["deployment.cpu='2'", "registry.experiment=trial", "cluster.run_ttl=60", "speech.checkpoint_seconds=1"]
)
def test_what_changes_no_cached_step_does_not_change_it(setting: str) -> None:
    assert digest(setting) == digest() != ""


@pytest.mark.parametrize("source", ["hub:roberta-base", "roberta-base"])
def test_an_encoder_that_can_change_at_any_time_has_none(source: str) -> None:
    assert digest(f"text.source={source}") == ""
    assert digest(f"text.source={source}@4f2a9c1") != ""


def test_the_files_of_an_encoder_in_s3_change_it(s3_store: S3Store) -> None:
    source = f"text.source={s3_store.uri}/encoder"
    s3_store.write("encoder/config.json", b"{}")
    before = digest(source)
    s3_store.write("encoder/config.json", b'{"layers": 2}')
    assert digest(source) not in {"", before}


def test_without_usable_records_there_is_work(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert remaining_work(store, CONTEXT, "") == remaining_work(store, CONTEXT, "d") == (WORK, {})
    store.write("finished/d.json", b"{half")
    assert remaining_work(store, CONTEXT, "d") == (WORK, {})
    record = StageRecord(
        task="gate_model", stage="gate_model", status="done", key="k", started=0.0, outputs={"verdict": "v"}
    )
    uncached = StageRecord(task="deploy_model", stage="deploy_model", status="done", started=0.0)
    remember(store, "earlier", "d", [record, uncached])
    assert "deploy_model" not in store.read("finished/d.json")[0].decode()
    assert remaining_work(store, CONTEXT, "d") == (WORK, {})  # the store has no record under the step's key
    assert not list(store.keys("runs/run"))
