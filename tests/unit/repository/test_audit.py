"""The audit of locked packages, by pip-audit against a stand-in for the database of vulnerabilities."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mistere.common.paths import PROJECT_ROOT
from pipelines.audit import DATABASE_VARIABLE, locked_packages, main

OSV_ANSWER = {
    # The form of https://google.github.io/osv.dev/post-v1-query/ and https://ossf.github.io/osv-schema/ (1.7)
    "vulns": [
        {
            "id": "GHSA-9wx4-h78v-vm56",
            "summary": "Requests does not verify certificates after a first request with verify=False",
            "aliases": ["CVE-2024-35195"],
            "published": "2024-05-20T20:15:00Z",
            "modified": "2024-06-10T18:00:00Z",
            "schema_version": "1.7.0",
            "affected": [
                {
                    "package": {"name": "requests", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.32.0"}]}],
                }
            ],
        }
    ]
}


class _Database(BaseHTTPRequestHandler):
    """Knows one vulnerable version; for any other, OSV answers with an empty object."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vulnerable = asked == {"package": {"name": "requests", "ecosystem": "PyPI"}, "version": "2.31.0"}
        body = json.dumps(OSV_ANSWER if vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Database)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1/query"
    monkeypatch.setenv(DATABASE_VARIABLE, url)
    yield url
    server.shutdown()
    server.server_close()


def locks(folder: Path, pins: str) -> Path:
    (folder / "docker").mkdir()
    (folder / "requirements.lock").write_text(pins)
    (folder / "docker" / "train.lock").write_text("# pinned\nrequests==2.32.4  # again\n")
    return folder


@pytest.mark.long
def test_a_known_vulnerability_fails_the_audit(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(locks(tmp_path, "requests==2.31.0\ncertifi==2026.1.1\n")) == 1
    output = capsys.readouterr()
    assert output.err == "requests 2.31.0 has CVE-2024-35195: upgrade to 2.32.0.\n"
    (tmp_path / "requirements.lock").write_text("certifi==2026.1.1\n")
    assert main(tmp_path) == 0 and "2 packages audited, 0 vulnerabilities" in capsys.readouterr().out


@pytest.mark.long
def test_without_a_network_the_audit_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, "http://127.0.0.1:9/v1/query")
    assert main(locks(tmp_path, "requests==2.31.0\n")) == 0
    output = capsys.readouterr()
    assert "was not checked" in output.out and output.out.count("\n") == 1 and not output.err


def test_a_vulnerability_counts_also_where_the_database_stops_answering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two versions of a package are two calls of pip-audit: the first answers, the second runs out of time."""
    package = {"name": "requests", "version": "2.31.0", "vulns": [{"id": "GHSA-1", "fix_versions": ["2.32.0"]}]}
    answers = iter([subprocess.CompletedProcess([], 1, json.dumps({"dependencies": [package]}), "")])

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if (answer := next(answers, None)) is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    assert main(locks(tmp_path, "requests==2.31.0\n")) == 1
    output = capsys.readouterr()
    assert output.err == "requests 2.31.0 has GHSA-1: upgrade to 2.32.0.\n"
    assert "was not checked for all" in output.out and "audited" not in output.out


def test_every_lock_pins_exact_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(locked_packages(PROJECT_ROOT)) > 200
    assert main(locks(tmp_path, "requests>=2\n")) == 1
    assert "requirements.lock: 'requests>=2' does not pin an exact version" in capsys.readouterr().err
