"""The registry on real databases: SQLite in this process, and PostgreSQL behind an MLflow server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from components.register_model.mlflow_model import write_mlflow_model
from mistere.artifacts.bundle_reference import REFERENCE_FILE
from mistere.artifacts.identities import DatasetIdentity
from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import file_url, path_of, sqlite_url
from mistere.config.registry import RegistryConfig
from mistere.predictor.in_process import load
from mistere.registry.lineage import Lineage, read_lineage
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.model_registry import (
    find_version,
    mirror_champion,
    register,
    registered_versions,
)
from mistere.registry.mlflow.run_logging import TAG_PREFIX, RunRecord, artifact_root, log_files, log_run, start_facts
from mistere.registry.release.champion import Champion, read_champion
from tests.local.servers import free_port, mlflow_server, postgresql
from tests.local.workshop import Run
from tests.unit.artifacts.test_odd_paths import ODD, ODD_NAMES

CONFIG = RegistryConfig()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def tracking_uri(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        (folder / ODD).mkdir()
        yield sqlite_url(folder / ODD / "mlflow.db")
        return
    with postgresql(folder / "postgresql") as database, mlflow_server(database, folder / "server") as address:
        yield address


def lineage(folder: Path, name: str, **changes: object) -> Lineage:
    values = {
        "model_name": CONFIG.model_name,
        "run_id": f"run-{name}",
        "bundle_digest": name * 64,
        "bundle_location": str(folder / (name * 64)),
        "evaluation_digest": "e" * 64,
        "test_digest": "t" * 64,
        "verdict": "promote",
        "dataset": "tones",
        "dvc_digest": f"{'d' * 32}.dir",
        "data_remote": "s3://user:secret@bucket/data",
        "commit": "c" * 40,
        "dirty": False,
        "encoder_digests": {"text": "f" * 64},
        "encoder_sources": {"text": "package:tiny"},
        **changes,
    }
    return Lineage.model_validate(values)


INFO = {
    "config": {"mixture": {"hidden": 8, "gru_layers": 3}},
    "changed": {"mixture.hidden": 8},
    "command": "mistere run --profile tiny",
    "started": 1_700_000_000.0,
    "commit": "c" * 40,
}


def register_version(uri: str, folder: Path, name: str, **changes: object) -> str:
    version = lineage(folder, name, **changes)
    bundle = folder / ODD / name
    bundle.mkdir(parents=True, exist_ok=True)
    described = {"labels": ["calm", "glad"], "experts": ["text", "cross_modal"], "encoders": {}, "metrics": {}}
    manifest = ModelBundle(name="mistere", temperature=1, test_digest="t" * 64, dvc_digest="d" * 32, **described)  # type: ignore[arg-type]
    write_mlflow_model(bundle, manifest, {})
    (bundle / "README.md").write_text("# A model\n")
    record = RunRecord(
        run_id=version.run.run_id,
        **start_facts(INFO),
        metrics={"test.weighted_f1": 0.5 + ord(name) / 1000, "test.slice.modalities.speech+text.weighted_f1": 0.4},
        histories={"train_moe": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]},
        dataset=DatasetIdentity(name=version.dataset, dvc_digest=version.dvc_digest, remote=version.data_remote),
    )
    return register(uri, CONFIG, version, record, LocalStore(folder / "store"), bundle).version


def test_a_version_has_lineage_signature_data_and_aliases(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)  # MLflow creates a database in the current directory

    first, second = register_version(tracking_uri, tmp_path, "a"), register_version(tracking_uri, tmp_path, "b")
    assert register_version(tracking_uri, tmp_path, "b") == second != first
    newest, oldest = registered_versions(tracking_uri, CONFIG.model_name)
    assert (newest.version, newest.aliases, newest.bundle_digest) == (second, ("challenger",), "b" * 64)
    assert oldest.weighted_f1 == pytest.approx(0.597) and oldest.tags["commit"] == "c" * 40
    assert oldest.tags["encoder.text.source"] == "package:tiny" and oldest.bundle_location == str(tmp_path / ("a" * 64))

    release = {"evaluation_digest": "e" * 64, "model_name": CONFIG.model_name, "moved_at": 1.0}
    previous = Champion(bundle_digest="a" * 64, model_version=first, run_id="run-a", **release)  # type: ignore[arg-type]
    current = Champion(
        bundle_digest="b" * 64,
        model_version=second,
        run_id="run-b",
        previous=previous.as_predecessor(),
        **release,  # type: ignore[arg-type]
    )
    mirror_champion(tracking_uri, previous)
    mirror_champion(tracking_uri, current)
    for reference, version in (
        ("mistere", second),
        ("mistere@previous", first),
        ("@challenger", second),
        (f"mistere/{first}", first),
        (first, first),
        (f"v{first}", first),
        ("bbbbbbbb", second),
    ):
        assert find_version(tracking_uri, reference, CONFIG.model_name).version == version, reference
    for wrong, message in (
        ("mistere@best", "there is no"),
        ("mistere/77", "there is no"),
        ("other", "has no model 'other', and mistere no version"),
    ):
        with pytest.raises(UsageError, match=message):
            find_version(tracking_uri, wrong, CONFIG.model_name)

    mlflow.set_tracking_uri(tracking_uri)
    signature = mlflow.models.get_model_info("models:/mistere@champion").signature
    assert signature.inputs.input_names() == ["dialogue_id", "turn", "predict", "text", "audio"]
    assert "probabilities" in signature.outputs.input_names()
    with connected(tracking_uri) as client:
        run = client.get_run(client.get_model_version(CONFIG.model_name, first).run_id)
        assert run.data.metrics["test.slice.modalities.speech_text.weighted_f1"] == 0.4
        assert [m.value for m in client.get_metric_history(run.info.run_id, "train_moe.loss")] == [2.0, 1.0]
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("tones", f"{'d' * 32}.dir")
        assert "secret" not in data.dataset.source
        assert run.data.params == {"mixture.hidden": "8"} and run.data.tags["mlflow.source.git.commit"] == "c" * 40
        assert run.info.start_time == 1_700_000_000_000 < run.info.end_time
        configuration = client.download_artifacts(run.info.run_id, "configuration.yaml", str(tmp_path))
        assert yaml.safe_load(Path(configuration).read_text()) == INFO["config"]
        # what MLflow's column Models and its page of models show
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        versions = json.loads(model.tags["mlflow.modelVersions"])
        assert [(one["name"], str(one["version"])) for one in versions] == [("mistere", first)]
        assert {(one.key, one.value) for one in model.metrics} >= {("test.weighted_f1", 0.597)}
        assert len(client.get_metric_history(run.info.run_id, "test.weighted_f1")) == 1


def test_a_rerun_that_gives_the_same_bundle_changes_no_tag_and_shows_the_same_model(
    tracking_uri: str, tmp_path: Path
) -> None:
    def tags() -> dict[str, str]:
        return dict(client.get_model_version(CONFIG.model_name, version).tags)

    version = register_version(tracking_uri, tmp_path, "f", dirty=True)
    with connected(tracking_uri) as client:
        uncommitted = tags()
        assert register_version(tracking_uri, tmp_path, "f", run_id="run-again", dirty=True) == version
        assert tags() == uncommitted and uncommitted["mistere.run_id"] == "run-f"
        experiment = client.get_experiment_by_name(CONFIG.experiment)
        models = {
            run.data.tags["mistere.run_id"]: [output.model_id for output in run.outputs.model_outputs]
            for run in client.search_runs([experiment.experiment_id])
            if run.data.tags["mistere.run_id"] in {"run-f", "run-again"}
        }
        assert models["run-f"] == models["run-again"] and len(models["run-f"]) == 1
        # the first run with committed code, and another place of the store, do
        assert register_version(tracking_uri, tmp_path, "f", run_id="run-committed") == version
        committed = tags()
        assert (committed["mistere.run_id"], committed["mistere.dirty"]) == ("run-committed", "False")
        moved = tmp_path / "moved"
        moved.mkdir()
        assert register_version(tracking_uri, moved, "f", run_id="run-moved") == version
        assert {name for name, value in tags().items() if value != committed[name]} == {f"{TAG_PREFIX}bundle_location"}


@pytest.mark.long
def test_a_version_is_loaded_through_mlflow_and_its_bundle_stays_intact(
    tracking_uri: str, first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas

    monkeypatch.chdir(tmp_path)
    store = LocalStore(first.output / "store")
    digest = read_champion(store).digest
    bundle = open_artifact(store, ModelBundle, digest)
    record = RunRecord("run-loaded", {"test.weighted_f1": 0.5})
    version = register(tracking_uri, CONFIG, read_lineage(store, digest), record, store, bundle.path).version
    mlflow.set_tracking_uri(tracking_uri)
    reference = f"models:/{CONFIG.model_name}/{version}"
    model = mlflow.pyfunc.load_model(reference)
    answer = model.predict(pandas.DataFrame({"text": ["This is lovely news.", "Stop it!"]}))
    assert list(answer["label"]) == load(bundle.path).predict(["This is lovely news.", "Stop it!"]).predicted
    assert model.predict(model.input_example)["modalities_used"].tolist() == ["speech+text"] * 2
    files = Path(mlflow.artifacts.download_artifacts(reference, dst_path=str(tmp_path)))
    assert {path.name for path in files.rglob("*") if path.is_file()} - {"registered_model_meta"} == {
        *("MLmodel", "README.md", REFERENCE_FILE, "input_example.json", "serving_input_example.json"),
    }  # no code, and nothing pickled
    assert not (bundle.path / "registered_model_meta").exists()
    open_artifact(store, ModelBundle, digest)


def test_a_run_without_a_version_is_logged_once_with_its_report(tracking_uri: str, tmp_path: Path) -> None:
    report = tmp_path / "run_report.html"
    report.write_text("<p>held</p>")
    for _ in range(2):
        record = RunRecord("run-held", metrics={"test.weighted_f1": 0.2}, tags={"mistere.outcome": "held"})
        logged = log_run(tracking_uri, CONFIG, record, artifact_root(str(tmp_path)))
        log_files(tracking_uri, logged, [report])
    with connected(tracking_uri) as client:
        experiment = client.get_experiment_by_name(CONFIG.experiment)
        (run,) = client.search_runs([experiment.experiment_id], "tags.`mistere.run_id` = 'run-held'")
        assert run.data.tags["mistere.outcome"] == "held" and run.info.status == "FINISHED"
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["run_report.html"]
        assert (logged.run_id, logged.experiment_id) == (run.info.run_id, experiment.experiment_id)
        assert len(client.get_metric_history(run.info.run_id, "test.weighted_f1")) == 1


def test_a_repeated_logging_completes_what_a_killed_one_began(tracking_uri: str, tmp_path: Path) -> None:
    files, dataset = str(tmp_path / "files"), DatasetIdentity(name="tones", dvc_digest=f"{'d' * 32}.dir")
    record = RunRecord("run-killed", {"test.weighted_f1": 0.2}, {"hidden": 8}, dataset=dataset, status="FAILED")
    log_run(tracking_uri, CONFIG, RunRecord("run-killed"), files)
    for _ in range(2):
        log_run(tracking_uri, CONFIG, record, files)
    with connected(tracking_uri) as client:
        experiment = client.get_experiment_by_name(CONFIG.experiment)
        (run,) = client.search_runs([experiment.experiment_id], "tags.`mistere.run_id` = 'run-killed'")
        assert run.data.params == {"hidden": "8"} and len(run.inputs.dataset_inputs) == 1
        assert run.info.status == "FAILED"
        assert len(client.get_metric_history(run.info.run_id, "test.weighted_f1")) == 1


def test_sqlite_and_mlflow_open_the_database_in_its_folder(tmp_path: Path) -> None:
    from mlflow.store.db.utils import _make_parent_dirs_if_sqlite
    from sqlalchemy import create_engine

    for name in (*ODD_NAMES, ODD, "plain"):
        (tmp_path / name).mkdir()
        url = sqlite_url(tmp_path / name / "x.db")
        _make_parent_dirs_if_sqlite(url)  # what MLflow does before it opens the database
        with create_engine(url).connect() as connection:
            connection.exec_driver_sql("CREATE TABLE t (x)")
        assert (tmp_path / name / "x.db").stat().st_size, name
    assert {path.name for path in tmp_path.iterdir()} == {*ODD_NAMES, ODD, "plain"}


def test_mlflow_reads_the_path_of_an_artifact_folder(tmp_path: Path) -> None:
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import append_to_uri_path

    for name in (*ODD_NAMES, ODD):
        url = file_url(tmp_path / name)
        assert local_file_uri_to_path(append_to_uri_path(url, "run", "artifacts")) == f"{tmp_path}/{name}/run/artifacts"
        assert path_of(url) == path_of(str(tmp_path / name)) == tmp_path / name


def test_a_database_follows_its_files_to_another_folder(tracking_uri: str, tmp_path: Path) -> None:
    """▶ A run in a moved output directory wrote its files into the former one."""
    from sqlalchemy import make_url

    if not tracking_uri.startswith("sqlite"):
        pytest.skip("the files of a server are moved with the server")
    before, after = tmp_path / f"before {ODD}", tmp_path / f"after {ODD}"
    (before / "store").mkdir(parents=True)
    shutil.copyfile(make_url(tracking_uri).database or "", before / "mlflow.db")
    report = tmp_path / "run_report.html"
    report.write_text("<p>moved</p>")
    config = RegistryConfig(experiment="moved")

    def log(folder: Path, name: str) -> None:
        uri = sqlite_url(folder / "mlflow.db")
        log_files(uri, log_run(uri, config, RunRecord(name), artifact_root(str(folder / "store"))), [report])

    log(before, "first")
    before.rename(after)
    log(after, "second")
    assert not before.exists()
    with connected(sqlite_url(after / "mlflow.db")) as client:
        experiment = client.get_experiment_by_name("moved")
        assert experiment.artifact_location == file_url(after / "store" / "mlflow")
        for run in client.search_runs([experiment.experiment_id]):
            assert path_of(run.info.artifact_uri).is_relative_to(after)
            assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["run_report.html"]


@pytest.mark.long
def test_a_database_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's processes are stopped in the middle of a connection, and before one."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    with postgresql(tmp_path / "postgresql") as database:
        uri = database.replace("postgresql:", "postgresql+psycopg:")
        server = int((tmp_path / "postgresql" / "data" / "postmaster.pid").read_text().split()[0])
        with connected(uri) as client:
            client.search_experiments()
        stopped = [server]
        try:
            with (
                pytest.raises(MistereError, match="did not answer in time") as caught,
                connected(uri) as client,
            ):
                client.search_experiments()  # opens the connection that the next call uses
                stopped += [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                started = time.monotonic()
                client.search_experiments()
            assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)
            with pytest.raises(MistereError, match="cannot be reached"), connected(uri):
                pass
            assert time.monotonic() - started < 20
        finally:
            for pid in stopped:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "postgresql://mlflow:s3cret@127.0.0.1:{port}/mlflow"])
def test_an_unreachable_registry_is_reported_in_one_sentence_without_the_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MistereError) as refused:
        register_version(uri.format(port=free_port()), tmp_path, "a")
    assert "failed or refused the request" in str(refused.value) or "cannot be reached" in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)
