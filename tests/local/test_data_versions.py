"""Data versions with real DVC and Git: `dvc add`, `push` and `pull` against an S3 server, revisions, and errors."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from components.pull_data.run import describe
from mistere.common.errors import ExitCode, MistereError, UsageError
from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from mistere.data.dataset_writer import write_dataset
from mistere.data.diff import diff_datasets
from mistere.data.dvc_remote import RemoteData, shard_paths
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import PinnedData, pin
from tests.local.workshop import ROOT, info, mistere, rows, tone

# In the order of a boto3 session's parameters.
KEYS = {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "deep-secret"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an S3 server that runs in its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                requests.get(url, timeout=30)
                break
            except requests.RequestException:
                assert process.poll() is None and time.monotonic() < deadline, "the S3 server does not start"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def environment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        **KEYS,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "MISTERE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name))


def small_rows() -> list[tuple[Split, Utterance]]:
    return list(rows())


def additional_rows() -> list[tuple[Split, Utterance]]:
    """Two new dialogues, written as a separate shard."""
    return [
        ("train", Utterance(f"new-{d}", turn, "glad", f"news {d} {turn}", tone(900 + 10 * d + turn), "train-9"))
        for d in range(2)
        for turn in range(3)
    ]


class Project:
    """A Git repository with a dataset that DVC tracks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, remote: str, endpoint: str) -> None:
        self.folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.dvc("init", "-q")
        self.dvc("remote", "add", "-q", "-d", "store", remote)
        self.dvc("remote", "modify", "store", "endpointurl", endpoint)
        self.dvc("config", "core.analytics", "false")

    def git(self, *arguments: str) -> str:
        name = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return self._call(["git", *name, *arguments])

    def dvc(self, *arguments: str) -> str:
        return self._call([sys.executable, "-m", "dvc", *arguments])

    def _call(self, command: list[str]) -> str:
        environment = {**os.environ, **KEYS, "AWS_DEFAULT_REGION": "us-east-1"}
        result = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def commit(self, tag: str) -> str:
        """Track, push and commit the dataset; returns the output of ``dvc push``."""
        self.dvc("add", "-q", "data")
        output = self.dvc("push")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", tag)
        self.git("tag", tag)
        return output


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """Version v1, and v2 with one more shard."""
    import boto3

    boto3.session.Session(*KEYS.values(), region_name="us-east-1").client("s3", endpoint_url=server).create_bucket(
        Bucket="bucket"
    )
    folder = tmp_path_factory.mktemp("template")
    project = Project(folder / "project")
    project.start("s3://bucket/data", server)
    write_dataset(project.folder / "data", info(), small_rows())
    project.commit("v1")
    write_dataset(folder / "more", info(), additional_rows())
    (folder / "more" / "train-00000.parquet").rename(project.folder / "data" / "train-00001.parquet")
    assert "2 files pushed" in project.commit("v2")  # the new shard and the folder's listing
    return project.folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    """A copy of the template project."""
    return Project(shutil.copytree(template, tmp_path / "project", symlinks=True))


@pytest.mark.long
def test_a_version_is_named_by_revision_file_or_digest(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    first, second = pin("v1", ""), pin("data.dvc", "")
    assert first.digest != second.digest and first.remote == second.remote == pin("data.dvc@v1", "").remote
    assert pin("data.dvc@v1", "").digest == pin(first.digest, "").digest == pin("main~1", "").digest == first.digest
    assert pin(f"{project.folder}/data.dvc@v2", "").digest == second.digest
    assert describe(first.remote, first.digest).rows["train"] == 40
    assert describe(second.remote, second.digest).rows["train"] == 46
    (utterance, *_) = UtteranceReader(describe(second.remote, second.digest)).stream("test")
    assert utterance.text and utterance.audio


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("data.dvc@v9", UsageError, "Git knows no revision 'v9'"),
        ("data.dvc@--exec=x", UsageError, "Git knows no revision"),
        ("other.dvc@v1", UsageError, "there was no other.dvc at that revision"),
        ("v9", UsageError, "there is no data at v9: name a folder"),
    ],
)
def test_an_unknown_version_is_reported(
    source: str, error: type[MistereError], message: str, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    with pytest.raises(error, match=message):
        pin(source, "")


def test_a_revision_needs_a_git_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is in no Git repository"):
        pin("data.dvc@v1", "")


def cached(tmp_path: Path) -> dict[str, int]:
    paths = (tmp_path / "cache").rglob("files/md5/*/*")
    return {path.name: path.stat().st_mtime_ns for path in paths if path.is_file()}


@pytest.mark.long
def test_only_changed_shards_are_fetched(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    first, second = pin("v1", ""), pin("v2", "")
    shard_paths(describe(first.remote, first.digest))
    before = cached(tmp_path)
    shard_paths(describe(second.remote, second.digest))
    after = cached(tmp_path)
    assert len(after) == len(before) + 2 and before.items() <= after.items()


def error_message(pinned: PinnedData) -> str:
    clock = time.monotonic()
    with pytest.raises(MistereError) as caught:
        describe(pinned.remote, pinned.digest)
    assert caught.value.exit_code == ExitCode.ERROR
    message = str(caught.value)
    assert (
        time.monotonic() - clock < 30
        and "\n" not in message
        and "deep-secret" not in message
        and "Traceback" not in message
    )
    return message


def test_missing_and_unknown_credentials_are_reported(
    project: Project, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = pin(f"{project.folder}/data.dvc", "")
    requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=10)  # the server checks credentials from here on
    try:
        assert "does not know this access key for s3://" in error_message(pinned)
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=10)
    for name in KEYS:
        monkeypatch.delenv(name)
    assert "there are no credentials for s3://" in error_message(pinned)


@pytest.mark.long
def test_a_wrong_secret_key_is_reported(project: Project, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    pinned = pin(f"{project.folder}/data.dvc", "")
    iam = boto3.session.Session().client("iam", endpoint_url=server)
    iam.create_user(UserName="reader")
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
    iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=policy)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        assert "refuses the secret key for s3://" in error_message(pinned)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        assert describe(pinned.remote, pinned.digest).rows["train"] == 46
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_a_missing_bucket_is_reported(project: Project) -> None:
    pinned = pin(f"{project.folder}/data.dvc", "")
    assert "the bucket of s3://no-such-bucket/x does not exist" in error_message(
        replace(pinned, remote="s3://no-such-bucket/x")
    )


def test_an_unreachable_server_is_reported(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin(f"{project.folder}/data.dvc", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:deep-secret@127.0.0.1:9")
    assert "the object store at http://127.0.0.1:9 does not answer" in error_message(pinned)


@pytest.mark.long
def test_missing_and_corrupt_objects_are_reported(project: Project, server: str) -> None:
    import boto3

    s3 = boto3.session.Session().client("s3", endpoint_url=server)
    pinned = pin(f"{project.folder}/data.dvc@v1", "")
    shard = describe(pinned.remote, pinned.digest).shards[0].md5
    location = {"Bucket": "bucket", "Key": f"data/files/md5/{shard[:2]}/{shard[2:]}"}
    content = s3.get_object(**location)["Body"].read()
    shutil.rmtree(os.environ["MISTERE_CACHE"])
    s3.delete_object(**location)
    message = error_message(pinned)
    assert "is missing from the DVC remote s3://" in message and "push it again with `dvc push`" in message
    s3.put_object(**location, Body=content[:-1] + b"X")
    assert "is corrupt in the DVC remote" in error_message(pinned)
    s3.put_object(**location, Body=content)
    assert describe(pinned.remote, pinned.digest).rows["train"] == 40


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            id="cut off",
            marks=pytest.mark.long,
        ),
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:-5] + b"XXXXX"), id="overwritten", marks=pytest.mark.long
        ),
        pytest.param(lambda path: path.write_bytes(b""), id="empty", marks=pytest.mark.long),
        pytest.param(lambda path: path.unlink(), id="missing", marks=pytest.mark.long),
    ],
)
def test_a_damaged_cache_is_repaired(damage: Callable[[Path], object], project: Project, tmp_path: Path) -> None:
    pinned = pin(f"{project.folder}/data.dvc", "")
    before = describe(pinned.remote, pinned.digest)
    for path in (tmp_path / "cache").rglob("files/md5/*/*"):
        path.chmod(0o644)
        damage(path)
    assert describe(pinned.remote, pinned.digest) == before


@pytest.mark.long
def test_a_killed_pull_is_resumed(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = [(s, replace(u, audio=(u.audio or b"") + os.urandom(300_000))) for s, u in small_rows()]
    write_dataset(tmp_path / "large", info(), large, max_shard_bytes=2_000_000)
    (project.folder / "data" / "dataset.yaml").unlink()
    for path in [*(project.folder / "data").iterdir()]:
        path.unlink()
    for path in (tmp_path / "large").iterdir():
        path.rename(project.folder / "data" / path.name)
    project.commit("v3")
    pinned = pin(f"{project.folder}/data.dvc", "")
    code = f"from components.pull_data.run import describe; describe({pinned.remote!r}, {pinned.digest!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(cached(tmp_path)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = cached(tmp_path)
    dataset = describe(pinned.remote, pinned.digest)
    assert dataset.rows == {"train": 40, "dev": 16, "test": 16} and arrived
    assert all(path.is_file() for paths in shard_paths(dataset).values() for path in paths.values())


@pytest.mark.long
def test_equal_versions_have_no_differences(project: Project) -> None:
    pinned = pin(f"{project.folder}/data.dvc", "")
    assert diff_datasets(pinned, pinned).same


@pytest.mark.long
def test_changes_are_reported(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = []
    for split, row in small_rows():
        if row.dialogue_id == "train-1" and row.turn == 2:
            row = replace(row, label="glad" if row.label != "glad" else "calm")
        if row.dialogue_id == "train-2" and row.turn == 0:
            row = replace(row, text="something else")
        if row.dialogue_id == "train-3" and row.turn == 1:
            row = replace(row, audio=tone(1234, 2.0))
        if row.dialogue_id == "train-9":
            continue
        changed.append(("test" if row.dialogue_id == "dev-3" else split, row))
    changed.sort(key=lambda item: ("train", "dev", "test").index(item[0]))
    for path in (project.folder / "data").iterdir():
        path.unlink()
    write_dataset(tmp_path / "changed", info(language="de"), changed)
    for path in (tmp_path / "changed").iterdir():
        path.rename(project.folder / "data" / path.name)
    project.commit("v3")
    monkeypatch.chdir(project.folder)
    differences = diff_datasets(pin("v1", ""), pin("v3", ""))
    assert differences.label.count == differences.text.count == differences.audio.count == 1
    assert differences.text.examples == ["train/train-2/turn 0"] and len(differences.relabelled) == 1
    assert differences.removed.count == 4 and differences.added.count == 0 and differences.moved.count == 4
    assert differences.moved.examples[0] == "test/dev-3/turn 0 (was in dev)"
    assert differences.info == ["language: en -> de"] and differences.bytes_to_fetch > 0
    train = differences.splits["train"]
    assert (train.utterances.before, train.utterances.after, train.dialogues.after) == (40, 36, 9)
    assert train.minutes.after == pytest.approx((35 * 0.8 + 2) / 60, abs=0.01)


@pytest.mark.long
def test_the_command_compares_and_runs_on_a_revision(project: Project, tmp_path: Path) -> None:
    tracked = f"{project.folder}/data.dvc"
    result = mistere("data", "diff", f"{tracked}@v1", f"{tracked}@v2")
    assert result.returncode == 0, result.stderr
    assert "shards: 3 kept, 1 new or rewritten, 0 replaced or gone" in result.stdout
    assert "6 utterances new: train/new-0/turn 0" in result.stdout and "1 speaker new: train-9" in result.stdout
    as_json = mistere("data", "diff", f"{tracked}@v1", tracked, "--json")
    assert '"added"' in as_json.stdout and as_json.returncode == 0
    wrong = mistere("data", "diff", f"{tracked}@v1", f"{tracked}@v9")
    assert wrong.returncode == 2 and wrong.stderr.startswith("mistere: ") and wrong.stderr.count("\n") == 1


@pytest.mark.long
def test_a_run_on_an_earlier_revision(project: Project, tmp_path: Path) -> None:
    source = f"{project.folder}/data.dvc@v1"
    result = mistere("run", "--profile", "tiny", "--data", source, "--output", str(tmp_path / "output"))
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.long
def test_the_endpoint_of_the_remote_is_recorded(project: Project, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin(f"{project.folder}/data.dvc", "")
    assert pinned.endpoint == server
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("MISTERE_DATA_ENDPOINT", pinned.endpoint)
    assert RemoteData(pinned.remote, pinned.digest).listing()
    monkeypatch.delenv("MISTERE_DATA_ENDPOINT")
    tracked = f"{project.folder}/data.dvc"
    result = mistere("data", "diff", f"{tracked}@v1", tracked)
    assert result.returncode == 0 and "6 utterances new" in result.stdout, result.stderr
