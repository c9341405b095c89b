"""Secrets are masked in messages, output, logs, events and run records; settings with credentials are refused."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from mistere.artifacts.object_store import open_store
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.standard_streams import copy_redacted
from mistere.common.progress import emit
from mistere.common.secrets import redaction
from mistere.common.secrets.credentials import CREDENTIALS_VARIABLE, with_credentials, without_credentials
from mistere.common.secrets.private_files import write_private
from mistere.common.secrets.redaction import conceal, redact
from mistere.common.urls import has_credentials, redact_url
from mistere.engine.run_settings import run_context
from mistere.runs.run_info import RunOrigin
from pipelines.profiles import load_profile

CANARY = "canary-7f3a9c1e"


@pytest.fixture(autouse=True)
def _environment_is_read_again() -> None:
    conceal()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://mlflow:{CANARY}@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        (f"postgresql://mlflow:p/{CANARY}@db/mlflow", "postgresql://db/mlflow"),
        (f"postgresql://mlflow:p@{CANARY}@db/mlflow", "postgresql://db/mlflow"),
        (f"postgresql://db/mlflow?user=me&password={CANARY}&sslmode=require", "?user=me&password=***&sslmode=require"),
        (f"https://{CANARY}@hub.example/model", "https://hub.example/model"),
        (f"cannot clone https://token:{CANARY}@git.example/x: refused", "https://git.example/x: refused"),
        (
            f"https://b.s3.example/k?X-Amz-Credential={CANARY}%2F2026&X-Amz-Date=20261129&X-Amz-Signature={CANARY}",
            "?X-Amz-Credential=***&X-Amz-Date=20261129&X-Amz-Signature=***",
        ),
        (f"https://account.blob.example/k?sv=2024&sig={CANARY}", "?sv=2024&sig=***"),
        (f"Authorization: Bearer {CANARY}", "Authorization: ***"),
        (f"{{'Authorization': 'Basic {CANARY}', 'Accept': '*/*'}}", "{'Authorization': '***', 'Accept': '*/*'}"),
        (f"Proxy-Authorization: Basic {CANARY}", "Proxy-Authorization: ***"),
        # RFC 7616, section 3.9.1: the response is computed from the password
        (
            f'Authorization: Digest username="Mufasa", realm="a b", qop=auth, response="{CANARY}"\nHost: a',
            "Authorization: ***\nHost: a",
        ),
        (
            f"{{'Authorization': 'Digest username=\"a\", response=\"{CANARY}\"', 'Accept': '*/*'}}",
            "{'Authorization': '***', 'Accept': '*/*'}",
        ),
        (f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA/s3, Signature={CANARY}", "Authorization: ***"),
        (f"x-amz-security-token: {CANARY}", "x-amz-security-token: ***"),
        (f"Set-Cookie: session={CANARY}; Path=/", "Set-Cookie: ***"),
        (f"Cookie: a=1; sid={CANARY}; b=2\nnext; line", "Cookie: ***\nnext; line"),
        (f"x-api-key: {CANARY}; try again: a=b", "x-api-key: *** try again: a=b"),
        (f"{{'Cookie': 'a=1; sid={CANARY}', 'Accept': '*/*'}}", "{'Cookie': '***', 'Accept': '*/*'}"),
        (f"{{'X-Api-Key': b'{CANARY}', 'token': b'{CANARY}'}}", "{'X-Api-Key': b'***', 'token': b'***'}"),
        (f"login(password=b'{CANARY}')", "login(password=b'***')"),
        (f"password='two {CANARY}', user='me'", "password='***', user='me'"),
        (f'{{"password": "a \\" {CANARY}", "user": "it\'s me"}}', '{"password": "***", "user": "it\'s me"}'),
        (f'--password "two {CANARY}" --profile tiny', '--password "***" --profile tiny'),
        (f"the server refused Bearer {CANARY}.", "Bearer ***"),
        (f"AWS_SECRET_ACCESS_KEY={CANARY} mistere run", "AWS_SECRET_ACCESS_KEY=*** mistere run"),
        (f"--set registry.password={CANARY} --set a.b=1", "--set registry.password=*** --set a.b=1"),
        (f"mistere run --hub-token {CANARY} --profile tiny", "--hub-token *** --profile tiny"),
        (f"tool --api-key {CANARY} --secret-access-key {CANARY} x", "--api-key *** --secret-access-key *** x"),
        (f"https://host/x?api-key={CANARY}&a=1", "?api-key=***&a=1"),
        (f'{{"secret_access_key": "{CANARY}", "region": "x"}}', '"secret_access_key": "***", "region": "x"'),
        (f"    password: {CANARY}\n    url: x", "password: ***\n    url: x"),
        (f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----\nend", "***\nend"),
        ("hf_abcdefghijklmnopqrstuv", "***"),
    ],
)
def test_secrets_are_masked_by_their_form(text: str, shown: str) -> None:
    assert CANARY not in redact(text) and shown in redact(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/v1/models/mistere@champion",
        "sqlite:////home/me@host/output/mlflow.db",
        "s3://bucket/prefix?versions",
        "set KFP_TOKEN: the pipeline's API refuses the token.",
        "cluster.tracking_secret=mistere-tracking and storage_secret: mistere-storage",
        "max_tokens=128, tokens: 12, key=value, monkey=1",
        "Basic authentication is off; the bearer of news.",
        "the password: see the secret.",
        'give \'a.token=\' a value, or "--token=", "b"',
    ],
)
def test_other_text_is_not_changed(text: str) -> None:
    assert redact(text) == text and not has_credentials(text)


def test_values_of_secret_variables_are_masked_wherever_they_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(f"machine mlflow.example login me password {CANARY}-netrc\n")
    key = tmp_path / "signing.key"
    key.touch()
    variables = {
        "HF_TOKEN": f"{CANARY}-hub",
        "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-mlflow",
        "HTTPS_PROXY": f"http://me:{CANARY}%2Fproxy@proxy.example:3128",
        "MISTERE_WEBHOOK_URL": f"https://hooks.example/services/T0/{CANARY}-hook",
        "NETRC": str(tmp_path / "netrc"),
        "MISTERE_SIGNING_SECRET_FILE": str(key),
        "POSTGRES_PASSWORD": "mistere",
        "MINIO_PASSWORD": "minioadmin",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    conceal()
    for secret in ("-hub", "-mlflow", "%2Fproxy", "/proxy", "-netrc"):
        assert redact(f"a library quotes {CANARY}{secret} here") == "a library quotes *** here", secret
    assert redact(f"POST /services/T0/{CANARY}-hook failed") == "POST *** failed"
    assert redact(f"{key}: mistere and minioadmin stay words") == f"{key}: mistere and minioadmin stay words"
    monkeypatch.delenv("HF_TOKEN")
    conceal()
    assert CANARY in redact(f"{CANARY}-hub")


def test_messages_events_and_records_hold_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://me:{CANARY}@host/x"
    for error in (MistereError(url), UsageError(f"see {url}"), ArtifactError(f"{url} is damaged", f"delete {url}")):
        assert CANARY not in str(error) and "https://host/x" in str(error)
    monkeypatch.setenv("MISTERE_EVENTS", str(tmp_path / "events"))
    emit("note", task="pull_data", message=url, done=1)
    assert json.loads((tmp_path / "events").read_text())["message"] == "https://host/x"
    command = ["mistere", "run", "--tracking", url, "--set", f"a.token={CANARY}"]
    origin = RunOrigin.of(load_profile("tiny"), command, url, None)
    assert origin.command == "mistere run --tracking https://host/x --set a.token=***" and CANARY not in origin.source


def test_a_url_reaches_child_processes_without_its_credentials_in_any_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CREDENTIALS_VARIABLE, raising=False)
    monkeypatch.setattr(redaction, "_concealed", set())
    tracking, remote = f"postgresql://me:{CANARY}-1@db/x", f"https://{CANARY}-2@data.example/x"
    shown = [without_credentials(url) for url in (tracking, remote, "sqlite:///x.db")]
    assert shown == ["postgresql://db/x", "https://data.example/x", "sqlite:///x.db"]
    assert [with_credentials(url) for url in shown] == [tracking, remote, "sqlite:///x.db"]
    assert redact(f"password {CANARY}-1, token {CANARY}-2") == "password ***, token ***"
    monkeypatch.setenv(CREDENTIALS_VARIABLE, "[]")
    assert with_credentials(shown[0]) == shown[0]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        (f"cluster.tracking_uri=https://me:{CANARY}@mlflow.example", "cluster.tracking_uri"),
        (f"cluster.store=s3://key:{CANARY}@bucket", "cluster.store"),
        (f"speech.source=https://{CANARY}@hub.example/model", "speech.source"),
        (f"deployment.env.ENDPOINT=http://me:{CANARY}@proxy:3128", "deployment.env"),
        (f"deployment.env.API_TOKEN={CANARY}", "deployment.env: API_TOKEN"),
        (f"data.source=https://b.s3.example/k?X-Amz-Signature={CANARY}", "data.source"),
        (f"registry.password={CANARY}", "registry.password"),
    ],
)
def test_settings_with_credentials_are_refused(setting: str, name: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_profile("tiny", [setting])
    assert name in str(raised.value) and CANARY not in str(raised.value)


def test_stores_and_run_contexts_with_credentials_are_refused() -> None:
    for uri in (f"s3://key:{CANARY}@bucket/x", f"s3://bucket/x?token={CANARY}"):
        with pytest.raises(UsageError, match="contains credentials") as raised:
            open_store(uri)
        assert CANARY not in str(raised.value)
    complete = {"run_id": "r", "store": "/srv/store", "tracking_uri": "https://mlflow.example"}
    for name in ("tracking_uri", "data_remote"):
        with pytest.raises(UsageError, match=f"{name} https://host/x contains credentials"):
            run_context({**complete, name: f"https://{CANARY}@host/x"}, "job")


def test_a_process_masks_what_it_prints_and_logs() -> None:
    code = f"""
import logging, sys, warnings
early = logging.StreamHandler()  # it keeps the stream from before
logging.basicConfig(handlers=[early])
from mistere.common.processes.standard_streams import guard_streams
guard_streams(); guard_streams()
url = "https://me:{CANARY}@host/x"
print("printed", url); sys.stderr.write("written " + url + "\\n"); sys.stdout.writelines(["lines " + url])
logging.warning("logged %s %d", url, 3); logging.warning("formatted https://%s@host/x, token=%s, %d", "me:{CANARY}", "{CANARY}", 4); logging.warning("named %(a)s", {{"a": url}}); logging.error(OSError(url))
try: raise ValueError("caught " + url)
except ValueError: logging.exception("failed")
warnings.warn("warned " + url)
raise RuntimeError("raised " + url)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    text = done.stdout + done.stderr
    for word in ("printed", "written", "lines", "logged", "named", "caught", "warned", "raised"):
        assert f"{word} https://host/x" in text, text
    assert CANARY not in text and "logged https://host/x 3" in done.stderr
    assert "formatted https://host/x, token=***, 4" in done.stderr


@pytest.mark.parametrize("piece", ["a", "x://a:b", "?_", "a_", "x-", "-", "x-token"])
def test_masking_takes_time_in_proportion_to_the_text(piece: str) -> None:
    started = time.perf_counter()
    redact(f"s3://b ?{piece * (40_000 // len(piece))}=token x")
    assert time.perf_counter() - started < 2


def test_the_log_of_a_process_is_masked_also_across_writes(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    log = tmp_path / "log"
    thread = copy_redacted(os.fdopen(reader, "rb"), log.open("wb"))
    key = ["a -----BEGIN EC PRIVATE KEY-----\n", f"{CANARY}\n", f"{CANARY}\n-----END EC PRIVATE", " KEY-----\n"]
    for part in ("first\nhttps://me:", f"{CANARY}@ho", "st/x\n", *key, "b\n", key[0], f"password={CANARY}"):
        os.write(writer, part.encode())
        while int.from_bytes(fcntl.ioctl(writer, termios.FIONREAD, bytes(4)), sys.byteorder):
            time.sleep(0.001)  # until the part was read alone
    os.close(writer)
    thread.join(10)
    assert log.read_text() == "first\nhttps://host/x\na ***\nb\na ***"


def test_private_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "arguments.json"
    file.write_text("older")
    file.chmod(0o644)
    write_private(file, "x")
    assert file.read_text() == "x" and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_redacted_urls_stay_usable() -> None:
    assert redact_url("postgresql://me:s3cret@db:5432/x?sslmode=require") == "postgresql://db:5432/x?sslmode=require"


def test_a_secret_that_is_no_valid_url_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_WEBHOOK_TOKEN", "https://[half/T0SECRET/x7Qsecretx7Q")
    conceal()  # read the environment again
    assert "x7Qsecretx7Q" not in redact("posting to https://[half/T0SECRET/x7Qsecretx7Q failed")
