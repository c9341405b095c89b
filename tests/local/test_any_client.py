"""The compiled pipeline, started by another client than mistere: without arguments, or with a part of a section."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode
from mistere.data.latest import LATEST, LatestData
from mistere.data.versions import pin
from mistere.runs.outcome import read_outcome, read_run_info, report_key
from tests.local.compiled_pipeline import compile_without_retries, run_compiled
from tests.local.workshop import make_dataset, rows


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile ``tiny`` with a bound that the data does not meet: the run ends with a verdict, before any training."""
    folder = tmp_path_factory.mktemp("compiled")
    return compile_without_retries("tiny", ["validation.min_train_per_class=1000"], folder / "pipeline.yaml")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with published data."""
    created = LocalStore(tmp_path / "store")
    pinned = pin(str(make_dataset(tmp_path / "tones", rows(audio=False))), str(tmp_path / "remote"))
    latest = LatestData(digest=pinned.digest, remote=pinned.remote, published_at=1.0)
    LATEST.move(created, LATEST.read(created).version, latest)
    return created


def environment(store: LocalStore, folder: Path) -> dict[str, str]:
    """What the ConfigMap ``mistere-settings`` holds."""
    return {"MISTERE_STORE": store.uri, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}


@pytest.mark.long
def test_the_compiled_pipeline_runs_without_arguments(pipeline: Path, store: LocalStore, tmp_path: Path) -> None:
    """Kubeflow Pipelines 2.17.0 refused such a run with 400: ``parameter run is not optional``."""
    log = run_compiled(pipeline, tmp_path / "kfp", environment(store, tmp_path))
    (run_id,) = {key.split("/")[1] for key in store.keys("runs")}
    outcome = read_outcome(store, run_id)
    assert outcome.exit_code == ExitCode.DATA_REJECTED, log
    assert [record.task for record in outcome.stages] == ["resolve_inputs", "pull_data", "validate_data", "report_run"]
    assert re.fullmatch(r"\d+", run_id)  # the id of the local runner; that of a server is a UUID
    report = json.loads(store.read(report_key(run_id, "run_report.json"))[0])
    assert report["profile"] == "tiny" and report["outcome"]["verdict"] == "data rejected"
    assert read_run_info(store, run_id)["config"]["validation"]["min_train_per_class"] == 1000


@pytest.mark.long
def test_without_the_config_map_the_first_step_and_the_report_say_what_is_missing(
    pipeline: Path, tmp_path: Path
) -> None:
    log = run_compiled(pipeline, tmp_path / "kfp", {"MISTERE_STORE": "", "MLFLOW_TRACKING_URI": "http://mlflow"})
    assert log.count("UsageError: this run does not know its store: set MISTERE_STORE in the ConfigMap") == 2


@pytest.mark.long
def test_the_report_says_which_setting_is_unknown(pipeline: Path, store: LocalStore, tmp_path: Path) -> None:
    invalid_settings = {"mixture": {"learning_rte": 0.001}, "registry": {"model": "x"}}
    run_compiled(pipeline, tmp_path / "kfp", environment(store, tmp_path), **invalid_settings)
    (run_id,) = {key.split("/")[1] for key in store.keys("runs")}
    report = json.loads(store.read(report_key(run_id, "run_report.json"))[0])
    assert report["outcome"]["exit_code"] == ExitCode.USAGE
    assert "did you mean 'learning_rate'?" in report["outcome"]["reasons"][0]
