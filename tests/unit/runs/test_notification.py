"""The webhook notification at the end of a run, with a local receiver."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.report_run import notification
from components.report_run.run import STAGE
from mistere.common.progress import EVENTS_VARIABLE
from mistere.config.registry import RegistryConfig
from mistere.engine.execution import execute
from mistere.reports.wording import headline
from mistere.runs import webhook
from mistere.runs.outcome import read_outcome
from tests.local.servers import free_port
from tests.unit.runs import recorded_runs as runs

SECRET = "T0SECRET/B0SECRET/x7Qsecretx7Q"


class Receiver:
    """An HTTP server that records requests and replies with the configured answers in order."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.answers: list[int | str] = []
        self.released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if answer == "silence":
                    receiver.released.wait(20)
                    return
                if answer == "hang up":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                receiver.taken.append(json.loads(body))
                self.send_response(int(answer))
                if 300 <= int(answer) < 400:
                    self.send_header("Location", f"{receiver.url}/elsewhere")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *arguments: Any) -> None:
                """Suppress logging."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/services/{SECRET}"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver()
    monkeypatch.setenv(webhook.VARIABLE, server.url)
    monkeypatch.setattr(webhook, "_PAUSE_SECONDS", 0.01)
    yield server
    server.close()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, runs.RecordedRun]:
    """A run for each outcome."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: make(folder / name) for name, make in runs.ENDINGS.items()}


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that holds a run's events."""
    monkeypatch.setenv(EVENTS_VARIABLE, str(tmp_path / "events.jsonl"))
    (tmp_path / "events.jsonl").touch()
    return tmp_path / "events.jsonl"


def notify_outcome(run: runs.RecordedRun) -> None:
    run.store.delete_object(f"runs/{run.run_id}/notified.txt")
    repeat_notification(run)


def repeat_notification(run: runs.RecordedRun) -> None:
    """Notify again, as a repeated exit handler does."""
    outcome = read_outcome(run.store, run.run_id)
    notification.notify(outcome, "sample", headline(outcome), run.step().progress, run.store)


def visible_text(message: dict[str, Any]) -> str:
    """All visible text of a message."""
    assert set(message) == {"text", "blocks"}
    seen = [message["text"]]
    for block in message["blocks"]:
        assert block["type"] in {"section", "context"}
        seen += [
            part["text"] for part in [block.get("text"), *block.get("fields", []), *block.get("elements", [])] if part
        ]
    assert all(0 < len(text) <= 3000 for text in seen)
    return "\n".join(seen)


@pytest.mark.parametrize(
    ("ending", "phrases"),
    [
        (
            "deployed",
            ["deployed", "passed the gate", "surely above the minimum", "Difference to the champion, paired*\n+0.148"],
        ),
        ("waiting", ["waiting", runs.WAITS, ":raised_hand:"]),
        ("held", ["held", "differs from the champion's by -0.004", "-0.004 (-0.031 to +0.022)"]),
        ("rejected", ["rejected", "worse by more than 0.010"]),
        ("data rejected", ["data rejected", "does not list"]),
        ("failed", ["failed", "the disk is full"]),
        ("killed", ["failed", "did not finish"]),
    ],
)
def test_each_outcome_sends_a_notification(
    ending: str, phrases: list[str], ended: dict[str, runs.RecordedRun], receiver: Receiver, events: Path
) -> None:
    notify_outcome(ended[ending])
    (message,) = receiver.taken
    seen = visible_text(message)
    for words in [*phrases, "run-0042 (sample)", "run_report.html"]:
        assert words in seen, words
    assert ("Weighted F1 (95 % interval)*\n0." in seen) == (ending in {"deployed", "waiting", "held", "rejected"})
    assert events.read_text() == ""


def test_a_repeated_exit_handler_notifies_only_of_a_new_outcome(
    receiver: Receiver, events: Path, tmp_path: Path
) -> None:
    run = runs.killed(tmp_path / "store")
    receiver.answers = [404]
    repeat_notification(run)  # not delivered, so it is sent again
    for _ in range(2):
        repeat_notification(run)
    assert len(receiver.taken) == 2
    run.record("finetune_encoder-text", "failed", exit_code=1, message="the disk is full.")
    for _ in range(2):
        repeat_notification(run)
    assert len(receiver.taken) == 3 and "the disk is full" in visible_text(receiver.taken[-1])


def test_no_notification_is_sent_without_a_webhook(
    ended: dict[str, runs.RecordedRun], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("", "  "):
        monkeypatch.setenv(webhook.VARIABLE, value)
        notify_outcome(ended["killed"])
    monkeypatch.delenv(webhook.VARIABLE)
    notify_outcome(ended["killed"])
    assert receiver.paths == []


@pytest.mark.parametrize(
    ("answers", "requests_sent", "note"),
    [
        ([500, 200], 2, ""),
        ([429, 200], 2, ""),
        (["hang up", 200], 2, ""),
        (["silence", 200], 2, ""),
        ([500, 503, 200], 2, "answered 503"),
        (["silence", "silence"], 2, "did not answer in time"),
        (["hang up", "hang up"], 2, "could not be reached"),
        ([404, 200], 1, "answered 404"),
        ([302, 200], 1, "a redirect, which is not followed"),
        ([307, 200], 1, "a redirect, which is not followed"),
    ],
)
def test_failing_receiver_is_retried_once_and_noted(
    answers: list[int | str],
    requests_sent: int,
    note: str,
    ended: dict[str, runs.RecordedRun],
    receiver: Receiver,
    events: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silences = answers.count("silence")  # a short timeout only for the silent receiver: a busy machine replies late
    limit = 30.0 if not silences else 2.0 if silences < len(answers) else 0.3
    monkeypatch.setattr(webhook, "_TIMEOUT_SECONDS", (30.0, limit))
    receiver.answers = list(answers)
    notify_outcome(ended["killed"])
    assert receiver.paths == [f"/services/{SECRET}"] * requests_sent
    log = events.read_text()
    assert (note in log and log.count("\n") == 1) if note else log == ""
    assert "SECRET" not in log and "127.0.0.1" not in log


@pytest.mark.parametrize(
    ("url", "phrases"),
    [
        (f"http://hooks.example.org/services/{SECRET}", "plain http"),
        (f"http://localhost.example.org/{SECRET}", "plain http"),
        (f"http://10.0.0.7/{SECRET}", "plain http"),
        (f"ftp://127.0.0.1/{SECRET}", "not an https:// URL"),
        (f"file:///etc/{SECRET}", "not an https:// URL"),
        (SECRET, "not an https:// URL"),
        (f"https://[half/{SECRET}", "was not notified"),
        (f"https://127.0.0.1:no/{SECRET}", "was not notified"),
        (f"https://127.0.0.1:{{port}}/{SECRET}", "could not be reached"),
        (f"http://[::1]:{{port}}/{SECRET}", "could not be reached"),
        ("http://user:T0SECRET@localhost:{port}/", "could not be reached"),
    ],
)
def test_invalid_or_unreachable_webhook_url_is_noted(
    url: str,
    phrases: str,
    ended: dict[str, runs.RecordedRun],
    receiver: Receiver,
    events: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(webhook.VARIABLE, url.format(port=free_port()))
    notify_outcome(ended["killed"])
    assert receiver.paths == []
    log = events.read_text()
    assert phrases in log and "SECRET" not in log and log.count("\n") == 1


def test_message_escapes_text_from_the_data(ended: dict[str, runs.RecordedRun]) -> None:
    outcome = read_outcome(ended["failed"].store, "run-0042")
    outcome.reasons = ["<!channel> <https://evil.example|here> a & b", *["x&y" * 2000] * 9]
    seen = visible_text(notification.message(outcome, "<@U1>", "It <b>failed</b>."))
    assert "<" not in seen and ">" not in seen
    assert "&lt;!channel&gt;" in seen and "a &amp; b" in seen


def test_reasons_beyond_the_message_limit_are_counted(ended: dict[str, runs.RecordedRun]) -> None:
    outcome = read_outcome(ended["failed"].store, "run-0042")
    outcome.reasons = [f"Reason {number}." for number in range(8)]
    seen = visible_text(notification.message(outcome, "", "It failed."))
    assert "Reason 4." in seen and "Reason 5." not in seen and "3 more in the report" in seen


@pytest.mark.parametrize("answer", [200, 500, 302, "hang up"])
def test_webhook_secret_does_not_leak_from_the_exit_handler(
    answer: int | str,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG)
    recorded = runs.killed(tmp_path / "store")
    receiver.answers = [answer, answer]
    settings = RegistryConfig(log_report=False).model_dump(mode="json")
    values = execute(STAGE, recorded.step().run.model_dump(), settings)
    assert values["verdict"] == "failed" and receiver.paths
    seen = capfd.readouterr()
    assert ("was not notified" in seen.out) == (answer != 200)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "run_report.json" for path in written)
    texts = [seen.out, seen.err, caplog.text, *(path.read_text(errors="replace") for path in written)]
    assert not any("SECRET" in text for text in texts)
