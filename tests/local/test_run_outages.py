"""Outages of S3 and MLflow in the middle of a run against real servers: pauses are survived, a lasting one ends the run in one sentence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mistere.artifacts.object_store import LocalStore, ObjectStore, open_store
from mistere.common.errors import ExitCode
from mistere.data.latest import LATEST, LatestData
from mistere.data.versions import pin
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log
from mistere.runs.outcome import read_outcome
from mistere.serving.deployment import read_deployment
from tests.local.compiled_pipeline import compile_without_retries, run_compiled
from tests.local.servers import mlflow_server
from tests.local.workshop import Run, make_dataset, mistere
from tests.stand_ins.failing_proxy import FailingProxy
from tests.stand_ins.s3_server import running_s3

pytestmark = pytest.mark.long
LOCAL = {"mode": "local"}
"""The pipeline is executed on this machine, where no cluster can be deployed to."""


def _proxy_of(url: str) -> FailingProxy:
    address = urlsplit(url)
    return FailingProxy((str(address.hostname), int(address.port or 0)))


@contextmanager
def _pause_times(proxy: FailingProxy) -> Iterator[list[float]]:
    """The time at which the proxy pauses, once it does."""
    times: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            if proxy.paused and not times:
                times.append(time.monotonic())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield times
    finally:
        ended.set()
        watcher.join()


def _run(output: Path, data: Path, tracking: str) -> Run:
    places = ("--data", str(data), "--output", str(output), "--tracking", tracking)
    result = mistere("run", "--profile", "tiny", *places)
    return Run(result.returncode, result.stdout + result.stderr, output)


def _complete_champion(store: ObjectStore) -> str:
    """The digest of the champion, which its deployment and the promotion log confirm."""
    champion = read_champion(store).digest
    assert read_deployment(store, "mistere").bundle_digest == champion
    log = read_log(store)
    assert not log.damaged and [event.outcome for event in log.events] == ["done"]
    return champion


def test_a_run_whose_store_is_away_ends_and_the_next_one_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 stops before the mixture is published and stays away; in the second run it stops for 6 s there."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MISTERE_S3_TIMEOUT": "2",
        "MISTERE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    pipeline = compile_without_retries(
        "tiny", ["cluster.steps.train_moe.retries=0", "gate.min_weighted_f1=0"], tmp_path / "pipeline.yaml"
    )
    with running_s3() as address:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="outages")
        with monkeypatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", address)
            store = open_store("s3://outages/store")
        pinned = pin(str(make_dataset(tmp_path / "tones")), str(tmp_path / "remote"))
        latest = LatestData(digest=pinned.digest, remote=pinned.remote, published_at=1.0)
        LATEST.move(store, LATEST.read(store).version, latest)
        proxy = _proxy_of(address)
        variables = {
            "MISTERE_STORE": store.uri,
            "AWS_ENDPOINT_URL": proxy.url,
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        }
        proxy.pause_at(b"/artifacts/MoEModel/")
        with _pause_times(proxy) as paused:
            log = run_compiled(pipeline, tmp_path / "first", variables, deployment=LOCAL)
        assert paused and time.monotonic() - paused[0] < 240, log
        assert f"the object store at {proxy.url} does not answer for s3://outages/store/" in log, log
        assert read_champion(store).champion is None
        (first,) = {key.split("/")[1] for key in store.keys("runs")}
        outcome = read_outcome(store, first)
        assert outcome.exit_code == ExitCode.ERROR and not outcome.damaged
        assert outcome.finished("embed_shard-text") and not outcome.finished("train_moe")

        proxy.resume()
        proxy.pause_at(b"/artifacts/MoEModel/", 6.0)
        log = run_compiled(pipeline, tmp_path / "second", variables, deployment=LOCAL)
        (second,) = {key.split("/")[1] for key in store.keys("runs")} - {first}
        outcome = read_outcome(store, second)
        assert outcome.exit_code == ExitCode.DEPLOYED, log
        reused = {record.task for record in outcome.stages if record.status == "reused"}
        assert "embed_shard-text" in reused and "train_moe" not in reused
        assert _complete_champion(store) == outcome.bundle_digest
        proxy.close()


def test_a_run_whose_mlflow_is_away_ends_and_the_next_one_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow stops when the model's version is registered and stays away; in the second run it stops for 4 s."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    data, output = make_dataset(tmp_path / "tones"), tmp_path / "output"
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "server") as address:
        proxy = _proxy_of(address)
        proxy.pause_at(b"/model-versions/create")
        with _pause_times(proxy) as paused:
            first = _run(output, data, proxy.url)
        assert paused and time.monotonic() - paused[0] < 120, first.text
        assert first.code == ExitCode.ERROR and "Traceback" not in first.text, first.text
        assert f"the MLflow server at {proxy.url} did not answer within 3 s, 2 times in a row" in first.text, first.text
        assert first.stages["register_model"]["status"] == "failed"
        assert read_champion(LocalStore(output / "store")).champion is None

        proxy.resume()
        proxy.pause_at(b"/model-versions/create", 4.0)
        second = _run(output, data, proxy.url)
        assert second.code == ExitCode.DEPLOYED, second.text
        assert second.stages["train_moe"]["status"] == "reused"
        assert _complete_champion(LocalStore(output / "store")) == second.stages["register_model"]["outputs"]["bundle"]
        proxy.close()
