"""The folder of the sample's objects takes no other data, tried with DVC and Git as a user would."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mistere.common.digests import code
from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.data.versions import pin
from pipelines.kubeflow import version
from pipelines.kubeflow.version import this_tree

SAMPLE = yaml.safe_load((PROJECT_ROOT / "data.dvc").read_text())["outs"][0]["md5"]


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def dvc(*arguments: str) -> int:
    from dvc.cli import main

    return int(main(list(arguments)))


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with this project's data, its DVC settings and a line of code, all committed."""
    folder = tmp_path / "clone"
    shutil.copytree(
        PROJECT_ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local")
    )
    for name in ("data.dvc", ".gitignore", "pyproject.toml"):
        shutil.copy(PROJECT_ROOT / name, folder)
    for name in ("pipelines/a.py", "tests/b.py", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x = 1\n")
    (folder / "my-data").mkdir()
    (folder / "my-data" / "recording.wav").write_text("a private recording")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    for module in (code, version):
        monkeypatch.setattr(module, "PROJECT_ROOT", folder)
    code.git_state.cache_clear()
    git("init", "--quiet")
    git("add", ".")
    git("rm", "--quiet", "-r", "--cached", "my-data")
    git("commit", "--quiet", "--message", "all")
    yield folder
    code.uncommitted_files.cache_clear()
    code.git_state.cache_clear()


def uncommitted() -> tuple[str, ...]:
    code.uncommitted_files.cache_clear()
    return code.uncommitted_files()


def test_only_code_and_data_count_as_uncommitted_changes(clone: Path) -> None:
    assert uncommitted() == ()
    with (clone / ".gitignore").open("a") as file:
        file.write("/my-data\n")  # as `dvc add` does
    for name in ("tests/b.py", "README.md"):
        (clone / name).write_text("x = 2\n")
    assert uncommitted() == (), "they are in no image and no step's key"
    assert "dirty" not in this_tree().described
    (clone / "pipelines/a.py").write_text("x = 2\n")
    (clone / 'pipelines/Grüße, "b".py').write_text("")
    (clone / "pipelines/retraining.yaml").write_text("")
    with (clone / "data.dvc").open("a") as file:
        file.write("# another version\n")
    assert uncommitted() == ("data.dvc", 'pipelines/Grüße, "b".py', "pipelines/a.py")
    code.git_state.cache_clear()
    tree = this_tree()
    assert tree.described.endswith("-dirty") and tree.uncommitted.startswith("data.dvc, pipelines/")
    assert code.name_files(["a.py", "b\n.py", "c.py", "d.py", "e.py"]) == "a.py, 'b\\n.py', c.py and 2 more"


@pytest.mark.long
def test_the_sample_folder_takes_no_other_data(clone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracked = git("ls-files", ".dvc/sample-remote").split()
    listing = clone / ".dvc/sample-remote/files/md5" / SAMPLE[:2] / SAMPLE[2:]
    assert len(tracked) == 1 + len(json.loads(listing.read_bytes())), "Git has every object of the sample"
    assert pin("data.dvc", "").remote == str(clone / ".dvc" / "sample-remote")

    assert dvc("add", "--quiet", "my-data") == 0
    assert " M .gitignore" in git("status", "--porcelain") and uncommitted() == ()
    caplog.clear()
    assert dvc("push") != 0 and "no remote specified" in caplog.text
    assert dvc("push", "--remote", "sample") != 0 and "remote 'sample' doesn't exist" in caplog.text
    assert pin("my-data.dvc", "").remote == str(clone / ".dvc" / "cache"), "enough for a run on this machine"
    with pytest.raises(UsageError, match=r"has no default remote for \w+\.dir: .*`dvc remote add --default NAME URL`"):
        pin("my-data.dvc", "", for_cluster=True)

    assert dvc("remote", "add", "--quiet", "--default", "wrong", ".dvc/sample-remote") == 0
    assert dvc("push", "--quiet") == 0
    assert "sample-remote" not in git("status", "--porcelain"), "the recording stays out of Git"
    with pytest.raises(
        UsageError, match=r"is kept in \S+sample-remote, which is .* only for its sample: add a storage"
    ):
        pin("my-data.dvc", "")
    assert pin("data.dvc", "").digest == SAMPLE

    assert dvc("remote", "add", "--quiet", "--default", "storage", str(tmp_path / "storage")) == 0
    assert dvc("push", "--quiet") == 0 and len([*(tmp_path / "storage").rglob("*.dir")]) == 1
    assert pin("my-data.dvc", "").remote == str(tmp_path / "storage")
    assert pin("data.dvc", "").remote == str(clone / ".dvc" / "sample-remote"), "the sample is found as before"
    assert pin("data.dvc", "", for_cluster=True).remote == str(tmp_path / "storage")
