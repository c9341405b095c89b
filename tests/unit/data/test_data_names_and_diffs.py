"""Ambiguous names of data versions are resolved or rejected; damaged datasets are compared or rejected."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistere.common.errors import DataError, MistereError, UsageError
from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from mistere.data.diff import DataDiff, diff_datasets
from mistere.data.dvc_remote import RemoteData
from mistere.data.versions import PinnedData, pin
from tests.local.workshop import make_dataset, rows

DVC = str(Path(sys.executable).with_name("dvc"))


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Git and DVC project whose first commit, v1, tracks data and below/data, and its remote."""
    parent = tmp_path_factory.mktemp("template")
    folder = parent / "project"
    (folder / "below").mkdir(parents=True)
    make_dataset(folder / "data", rows(audio=False))
    make_dataset(folder / "below" / "data", rows(audio=False))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (
        ["git", "init", "--quiet"],
        [DVC, "init", "--quiet"],
        [DVC, "remote", "add", "--default", "here", "../remote"],
        [DVC, "add", "--quiet", "data", "below/data"],
        [DVC, "push", "--quiet"],
        ["git", "add", "--all"],
        [*git, "commit", "--quiet", "--message", "first version"],
        ["git", "tag", "v1"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return parent


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project and its remote; the project is the working directory."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.long
def test_pin_accepts_every_spelling_of_a_git_revision(project: Path, tmp_path: Path) -> None:
    expected = pin("data.dvc", "")
    assert expected.remote == str(tmp_path / "remote")
    for name in ("v1", "HEAD@{0}", "data.dvc@HEAD@{0}", f"{project}/data.dvc@v1"):
        assert pin(name, "") == expected


@pytest.mark.long
def test_pin_reads_a_deleted_folder_at_its_revision(project: Path) -> None:
    shutil.rmtree(project / "below")
    assert pin("below/data.dvc@v1", "").digest == pin("data.dvc", "").digest


@pytest.mark.long
def test_pin_rejects_a_revision_that_is_also_a_path(project: Path) -> None:
    (project / "v1").mkdir()
    with pytest.raises(UsageError, match=r"a Git revision: write data\.dvc@v1 for the revision\.$"):
        pin("v1", "")
    (project / "v1").rmdir()
    (project / "v1").touch()
    with pytest.raises(UsageError, match="there is no data at v1"):
        pin("v1", "")


@pytest.mark.long
def test_pin_resolves_a_remote_that_refers_to_another(project: Path, tmp_path: Path) -> None:
    for command in (
        ["remote", "add", "--quiet", "base", str(tmp_path)],
        ["remote", "add", "--quiet", "--default", "derived", "remote://base/remote"],
    ):
        subprocess.run([DVC, *command], check=True, capture_output=True)
    data = pin("v1", "")
    assert data.remote == str(tmp_path / "remote")
    assert "dataset.yaml" in RemoteData(data.remote, data.digest).listing()


@pytest.mark.parametrize("remote", ["s3://no-such/folder", "http://me:secret-word@127.0.0.1:1/folder"])
def test_passwords_are_neither_printed_nor_stored_on_failure(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:secret-word@127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other-secret")
    with pytest.raises(MistereError) as caught:
        RemoteData(remote, "0" * 32 + ".dir").listing()
    assert "secret" not in str(caught.value) and "me:" not in str(caught.value)
    if remote.startswith("s3://"):
        cached_files = (path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
        assert not any(b"secret" in content for content in cached_files)


def test_invalid_endpoint_url_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://[half")
    with pytest.raises(MistereError, match=r"cannot create an S3 client .*check AWS_ENDPOINT_URL"):
        RemoteData("s3://bucket/folder", "0" * 32 + ".dir").listing()


def test_fetch_removes_leftovers_of_a_killed_pull(tmp_path: Path) -> None:
    version = pin_folder(make_dataset(tmp_path / "data", rows(audio=False)))
    data = RemoteData(version.remote, version.digest)
    cached = next(iter(data.fetch(data.listing()).values()))
    unfinished = cached.with_name(".some-token.tmp")
    unfinished.write_bytes(b"half")
    cached.unlink()
    data.fetch(data.listing())
    assert cached.is_file() and not unfinished.exists()


def pin_folder(folder: Path) -> PinnedData:
    return pin(str(folder), str(folder.parent / "snapshots"))


def diff_after(tmp_path: Path, change: Callable[[Path], object]) -> DataDiff:
    before = make_dataset(tmp_path / "before", rows(audio=False))
    after = tmp_path / "after"
    shutil.copytree(before, after)
    change(after)
    return diff_datasets(pin_folder(before), pin_folder(after))


def truncate_shard(folder: Path) -> None:
    shard = folder / "dev-00000.parquet"
    os.truncate(shard, shard.stat().st_size - 10)


def drop_labels(folder: Path) -> None:
    shard = folder / "dev-00000.parquet"
    pq.write_table(pq.read_table(shard).drop_columns(["label"]), shard)


@pytest.mark.parametrize("damage", [truncate_shard, drop_labels])
def test_diff_names_a_damaged_shard(damage: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^version [0-9a-f]{32}\.dir, dev-00000\.parquet: ") as caught:
        diff_after(tmp_path, damage)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_diff_counts_a_duplicated_shard_twice(tmp_path: Path) -> None:
    diff = diff_after(tmp_path, lambda folder: shutil.copy(folder / "dev-00000.parquet", folder / "dev-00001.parquet"))
    assert not diff.same and diff.shards["added"] == ["dev-00001.parquet"] and diff.bytes_to_fetch == 0
    assert (diff.splits["dev"].utterances.before, diff.splits["dev"].utterances.after) == (16, 32)


def test_diff_keeps_equal_dialogue_names_in_two_splits_apart(tmp_path: Path) -> None:
    def leaking_rows() -> Iterator[tuple[Split, Utterance]]:
        for split, utterance in rows(audio=False):
            if split == "test" and utterance.dialogue_id == "test-0":
                yield split, dataclasses.replace(utterance, dialogue_id="train-0")
            elif split == "train" and utterance.dialogue_id == "train-1":
                yield split, dataclasses.replace(utterance, text="other words")
            else:
                yield split, utterance

    def leak(folder: Path) -> None:
        shutil.rmtree(folder)
        make_dataset(folder, leaking_rows())

    diff = diff_after(tmp_path, leak)
    assert (diff.added.count, diff.removed.count, diff.moved.count, diff.text.count) == (4, 4, 0, 4)


def test_diff_reports_rows_moved_to_another_split(tmp_path: Path) -> None:
    def move(folder: Path) -> None:
        shutil.rmtree(folder)
        moved = (("dev" if u.dialogue_id == "train-9" else s, u) for s, u in rows(audio=False))
        make_dataset(folder, moved)  # type: ignore[arg-type]

    diff = diff_after(tmp_path, move)
    assert (diff.moved.count, diff.added.count, diff.removed.count) == (4, 0, 0)
    assert diff.moved.examples[0] == "dev/train-9/turn 0 (was in train)"
