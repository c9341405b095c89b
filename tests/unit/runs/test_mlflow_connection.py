"""A tracking server that hangs, fails or is no MLflow server, and a database that cannot be opened: one true sentence, and soon."""

from __future__ import annotations

import errno
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.common.errors import MissingPackageError, MistereError
from mistere.config.registry import RegistryConfig
from mistere.registry.mlflow.connection import connected
from mistere.registry.mlflow.model_registry import mirror_champion, registered_versions
from mistere.registry.mlflow.run_logging import RunRecord, log_run, log_training
from mistere.registry.release.champion import Champion
from tests.local.servers import free_port
from tests.stand_ins.http_server import HttpServer, Reply, running


class OtherServer(HttpServer):
    """A server that is no MLflow server."""

    reply = Reply(200, {})

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        return self.reply


@pytest.fixture(scope="module")
def server() -> Iterator[OtherServer]:
    with running(OtherServer()) as other:
        yield other


def sentence(uri: str) -> str:
    with pytest.raises(MistereError) as raised:
        log_training(uri, "experiment", "training", metrics={"f1": 0.5}, parameters={}, history=[])
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")
    return str(raised.value)


def test_a_server_that_hangs_is_tried_twice(server: OtherServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    server.received.clear()
    server.silent = True
    started = time.monotonic()
    try:
        message = sentence(server.url)
    finally:
        server.silent = False
    assert f"the MLflow server at {server.url} did not answer within 1 s, 2 times in a row" in message
    assert len(server.received) == 2 and time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(200, {}), "does not answer as MLflow does (200 to the experiment experiment, without its result)"),
        (Reply(200, b""), "does not answer as MLflow does"),
        (Reply(200, {"status": "ok", "experiment": {"id": 4}}), "does not answer as MLflow does"),
        (Reply(200, b"<html>It works!</html>", {"Content-Type": "text/html"}), "(200 without JSON)"),
        (Reply(503, b"no upstream", {"Retry-After": "3600"}), "answered 503, once in a row"),
        # MLflow's basic-auth app answers so: mlflow/server/auth/__init__.py, make_basic_auth_response and make_forbidden_response.
        (Reply(401, b"You are not authenticated.", {"WWW-Authenticate": 'Basic realm="mlflow"'}), "refused the request (401"),
        (Reply(403, b"Permission denied"), "refused the request (403"),
    ],
)  # fmt: skip
def test_each_answer_is_reported(
    reply: Reply, words: str, server: OtherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(server, "reply", reply)
    message = sentence(server.url)
    assert words in message and server.url in message, message


def test_empty_answers_are_no_success(server: OtherServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "reply", Reply(200, {}))
    champion = Champion(
        bundle_digest="0" * 64,
        evaluation_digest="1" * 64,
        model_name="model",
        model_version="1",
        run_id="run",
        moved_at=0.0,
    )
    for work in (
        lambda: log_run(server.url, RegistryConfig(), RunRecord("run"), ""),
        lambda: registered_versions(server.url, "model"),
        lambda: mirror_champion(server.url, champion),
    ):
        with pytest.raises(MistereError, match="does not answer as MLflow does"):
            work()


def test_a_connection_that_a_firewall_denies_is_no_error_of_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # connect(2): "because of a local firewall rule"

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("urllib3.util.connection.create_connection", denied)
    assert "the MLflow server at http://127.0.0.1:9 cannot be reached" in sentence("http://127.0.0.1:9")


def test_an_absent_server_is_reported_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    message = sentence(f"http://me:hush-hush@127.0.0.1:{free_port()}")
    assert "the MLflow server at http://127.0.0.1" in message and "cannot be reached" in message
    assert "hush-hush" not in message


def test_a_database_that_cannot_be_opened_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    (tmp_path / "folder").mkdir()
    holder = sqlite3.connect(tmp_path / "held", isolation_level=None)
    holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    try:
        for name, reason in (
            ("folder", "unable to open database file"),
            ("missing/mlflow.db", "unable to open database file"),
            ("held", "database is locked"),
        ):
            message = sentence(f"sqlite:///{tmp_path / name}")
            assert f"{name} cannot be opened ({reason}): check the path, that" in message
    finally:
        holder.close()
    assert time.monotonic() - started < 10


def test_a_damaged_database_is_named_with_the_way_out(tmp_path: Path) -> None:
    sound = tmp_path / "sound.db"
    with sqlite3.connect(sound) as database:
        database.execute("CREATE TABLE t (x TEXT PRIMARY KEY)")
        database.executemany("INSERT INTO t VALUES (?)", [(f"{number} {'x' * 200}",) for number in range(200)])
    data = sound.read_bytes()
    for name, content in {
        "text": b"This is a text, and no database. " * 1000,
        "truncated": data[: len(data) // 2],
        "zeros": bytes(len(data)),
        "page": data[:8192] + bytes(4096) + data[12288:],
    }.items():
        (tmp_path / name).write_bytes(content)
        message = sentence(f"sqlite:///{tmp_path / name}")
        assert (
            f"{tmp_path / name} is damaged, or no database (" in message and "restore the file from a copy" in message
        )
        assert (tmp_path / name).read_bytes() == content


def test_a_missing_database_driver_is_named() -> None:
    with (
        pytest.raises(MissingPackageError) as raised,
        connected("postgresql+pg8000://me:s3cret@127.0.0.1:9/mlflow"),
    ):
        pass
    message = str(raised.value)
    assert (
        "needs a driver that is not installed (No module named 'pg8000'): pip install 'mistere[postgres]' and use postgresql+psycopg"
        in message
    )
    assert "s3cret" not in message


def test_an_invalid_timeout_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")
    with pytest.raises(MistereError, match="MLFLOW_HTTP_REQUEST_TIMEOUT=soon is not a whole number"), connected(""):
        pass
