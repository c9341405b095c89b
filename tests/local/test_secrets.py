"""A run, a failing run and refused commands leave no secret behind, wherever a user puts one."""

from __future__ import annotations

import base64
import functools
import http.server
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mistere.data.versions import pin
from tests.local.canaries import environment, leaks, planted
from tests.local.servers import mlflow_server
from tests.local.workshop import ROOT, make_dataset

pytestmark = pytest.mark.long


class _PrivateFiles(http.server.SimpleHTTPRequestHandler):
    """A folder behind HTTP's basic authentication (RFC 7617): 401 with a challenge without the right password."""

    def do_GET(self) -> None:
        if self._authorized():
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._authorized():
            super().do_HEAD()

    def _authorized(self) -> bool:
        expected = base64.b64encode(f"me:{planted('remote')}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {expected}":
            return True
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="data"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def private_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ``.dvc`` file of a dataset in an HTTP remote whose password is in DVC's ``config.local``."""
    folder = tmp_path_factory.mktemp("private")
    digest = pin(str(make_dataset(folder / "tones")), str(folder / "remote")).digest
    handler = functools.partial(_PrivateFiles, directory=str(folder / "remote"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    project = folder / "project"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc" / "config").write_text("[core]\n    no_scm = True\n    remote = storage\n")
    url = f"http://me:{planted('remote')}@127.0.0.1:{server.server_port}"
    (project / ".dvc" / "config.local").write_text(f"['remote \"storage\"']\n    url = {url}\n")
    tracked = project / "data.dvc"
    tracked.write_text(yaml.safe_dump({"outs": [{"md5": digest, "hash": "md5", "path": "data"}]}))
    yield tracked
    server.shutdown()
    server.server_close()


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``mistere`` with secrets in its environment; its cache is in ``folder``."""
    variables = {
        **os.environ,
        **environment(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "MISTERE_CACHE": str(folder / "cache"),
    }
    return subprocess.run(
        [sys.executable, "-m", "mistere", *arguments],
        cwd=folder, env=variables, capture_output=True, text=True, timeout=1700, check=False,
    )  # fmt: skip


def check(folder: Path, *results: subprocess.CompletedProcess[str], also: tuple[Path, ...] = ()) -> None:
    """Search the output and everything in ``folder``; only DVC's own configuration, for its owner alone, holds a password."""
    shutil.rmtree(folder / "home")
    for config in folder.glob("cache/**/.dvc/config"):
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        config.unlink()
    assert not leaks((folder, *also), {f"output {n}": done.stdout + done.stderr for n, done in enumerate(results)})


def test_a_run_leaves_no_secret_behind(private_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "mlflow") as url:
        tracking = url.replace("http://", f"http://me:{planted('tracking')}@")
        done = call(
            folder,
            "run",
            "--profile",
            "tiny",
            "--data",
            str(private_data),
            "--tracking",
            tracking,
            "--output",
            str(folder / "output"),
        )
        listed = call(folder, "models", "--store", str(folder / "output" / "store"), "--tracking", tracking)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: the gate holds a model from uncommitted code
    assert listed.returncode == 0 and "evaluate_model" in done.stdout, listed.stderr
    (run,) = (folder / "output" / "runs").iterdir()
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    for name in ("arguments.json", "kfp.log", "events.jsonl"):
        assert stat.S_IMODE((run / name).stat().st_mode) == 0o600
    assert (tmp_path / "mlflow.db").stat().st_size > 100_000
    check(folder, done, listed, also=(tmp_path / "mlflow",))
    assert not leaks((), {"mlflow.db": (tmp_path / "mlflow.db").read_bytes()})


def test_failing_and_refused_commands_leave_no_secret_behind(private_data: Path, tmp_path: Path) -> None:
    secret = planted("option")
    (tmp_path / "mine.yaml").write_text(f"cluster:\n  tracking_uri: https://me:{secret}@mlflow.example.org\n")
    database = f"postgresql://mlflow:{secret}@127.0.0.1:9/mlflow?password={planted('query')}"
    run = ("run", "--profile", "tiny", "--data", str(private_data), "--output", "output")
    presigned = f"https://bucket.s3.invalid/tones?X-Amz-Credential={secret}&X-Amz-Signature={secret}"
    tiny = ("--profile", "tiny")
    expected = [
        (1, call(tmp_path, *run, "--tracking", database)),
        (2, call(tmp_path, "run", "--profile", "mine.yaml", "--output", "output")),
        (2, call(tmp_path, *run, "--set", f"speech.source=https://{secret}@hub.invalid/model")),
        (2, call(tmp_path, *run, "--set", f"registry.password={secret}")),
        (2, call(tmp_path, *run, "--set", f"deployment.env.API_TOKEN={secret}")),
        (4, call(tmp_path, "run", "--profile", "tiny", "--data", presigned, "--output", "output")),
        (2, call(tmp_path, "models", "--store", f"s3://key:{secret}@bucket", "--tracking", "https://mlflow.invalid")),
        (1, call(tmp_path, "models", "--store", str(tmp_path), "--tracking", database)),
        (1, call(tmp_path, "--verbose", "models", "--store", str(tmp_path), "--tracking", database)),
        (2, call(tmp_path, "run", "--hub-token", secret)),
        (2, call(tmp_path, "submit", *tiny, "--host", f"https://me:{secret}@kfp.invalid", "--store", "s3://b/x", "--tracking", "https://m.invalid")),
        (2, call(tmp_path, "compile", *tiny, "--set", f"cluster.store=s3://key:{secret}@bucket", "--output", "p.yaml")),
        (1, call(tmp_path, "demo", "--url", f"http://me:{secret}@127.0.0.1:9/?token={secret}")),
    ]  # fmt: skip
    for code, done in expected:
        assert done.returncode == code, (done.args, done.stdout, done.stderr)
    (tmp_path / "mine.yaml").unlink()
    check(tmp_path, *(done for _, done in expected))
