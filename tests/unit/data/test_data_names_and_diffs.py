"""Names of data versions that are easily misread, and comparisons of datasets that are not as they should be."""

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

from mistere.common.errors import DataError, MistereError
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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git and DVC project whose first commit, v1, tracks data and below/data."""
    folder = tmp_path / "project"
    (folder / "below").mkdir(parents=True)
    monkeypatch.chdir(folder)
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
        subprocess.run(command, check=True, capture_output=True)
    return folder


def test_revisions_in_all_of_gits_spellings(project: Path, tmp_path: Path) -> None:
    expected = pin("data.dvc", "")
    assert expected.remote == str(tmp_path / "remote")
    for name in ("v1", "HEAD@{0}", "data.dvc@HEAD@{0}", f"{project}/data.dvc@v1"):
        assert pin(name, "") == expected


def test_a_folder_that_is_gone_since_is_found_at_its_revision(project: Path) -> None:
    shutil.rmtree(project / "below")
    assert pin("below/data.dvc@v1", "").digest == pin("data.dvc", "").digest


def test_what_is_a_folder_or_a_file_is_no_revision(project: Path) -> None:
    (project / "v1").mkdir()
    with pytest.raises(DataError, match=r"a Git revision: write data\.dvc@v1 for the revision\.$"):
        pin("v1", "")
    (project / "v1").rmdir()
    (project / "v1").touch()
    with pytest.raises(DataError, match="there is no data at v1"):
        pin("v1", "")


def test_a_remote_that_refers_to_another(project: Path, tmp_path: Path) -> None:
    for command in (
        ["remote", "add", "--quiet", "base", str(tmp_path)],
        ["remote", "add", "--quiet", "--default", "there", "remote://base/remote"],
    ):
        subprocess.run([DVC, *command], check=True, capture_output=True)
    found = pin("v1", "")
    assert found.remote == str(tmp_path / "remote")
    assert "dataset.yaml" in RemoteData(found.remote, found.digest).listing()


@pytest.mark.parametrize("remote", ["s3://no-such/place", "http://me:secret-word@127.0.0.1:1/place"])
def test_passwords_are_neither_printed_nor_stored(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:secret-word@127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other-secret")
    with pytest.raises(MistereError) as caught:
        RemoteData(remote, "0" * 32 + ".dir").listing()
    assert "secret" not in str(caught.value) and "me:" not in str(caught.value)
    if remote.startswith("s3://"):
        kept = (path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
        assert not any(b"secret" in content for content in kept)


def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://[half")
    with pytest.raises(MistereError, match="cannot be reached at"):
        RemoteData("s3://bucket/place", "0" * 32 + ".dir").listing()


def test_leftovers_of_a_killed_pull_are_removed(tmp_path: Path) -> None:
    found = pinned(make_dataset(tmp_path / "data", rows(audio=False)))
    data = RemoteData(found.remote, found.digest)
    first = next(iter(data.fetch(data.listing()).values()))
    half = first.with_name(".some-token.tmp")
    half.write_bytes(b"half")
    first.unlink()
    data.fetch(data.listing())
    assert first.is_file() and not half.exists()


def pinned(folder: Path) -> PinnedData:
    return pin(str(folder), str(folder.parent / "snapshots"))


def compared(tmp_path: Path, change: Callable[[Path], object]) -> DataDiff:
    before = make_dataset(tmp_path / "before", rows(audio=False))
    after = tmp_path / "after"
    shutil.copytree(before, after)
    change(after)
    return diff_datasets(pinned(before), pinned(after))


def cut_short(folder: Path) -> None:
    shard = folder / "dev-00000.parquet"
    os.truncate(shard, shard.stat().st_size - 10)


def without_labels(folder: Path) -> None:
    shard = folder / "dev-00000.parquet"
    pq.write_table(pq.read_table(shard).drop_columns(["label"]), shard)


@pytest.mark.parametrize("harm", [cut_short, without_labels])
def test_a_damaged_shard_is_named(harm: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^version [0-9a-f]{32}\.dir, dev-00000\.parquet: ") as caught:
        compared(tmp_path, harm)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_shard_that_is_there_twice_counts_twice(tmp_path: Path) -> None:
    diff = compared(tmp_path, lambda folder: shutil.copy(folder / "dev-00000.parquet", folder / "dev-00001.parquet"))
    assert not diff.same and diff.shards["added"] == ["dev-00001.parquet"] and diff.bytes_to_fetch == 0
    assert (diff.splits["dev"].utterances.before, diff.splits["dev"].utterances.after) == (16, 32)


def test_a_dialogue_in_two_splits_is_not_taken_for_one(tmp_path: Path) -> None:
    def leaking() -> Iterator[tuple[Split, Utterance]]:
        for split, utterance in rows(audio=False):
            if split == "test" and utterance.dialogue_id == "test-0":
                yield split, dataclasses.replace(utterance, dialogue_id="train-0")
            elif split == "train" and utterance.dialogue_id == "train-1":
                yield split, dataclasses.replace(utterance, text="other words")
            else:
                yield split, utterance

    def leak(folder: Path) -> None:
        shutil.rmtree(folder)
        make_dataset(folder, leaking())

    diff = compared(tmp_path, leak)
    assert (diff.added.count, diff.removed.count, diff.moved.count, diff.text.count) == (4, 4, 0, 4)


def test_rows_that_moved_to_another_split_are_reported(tmp_path: Path) -> None:
    def move(folder: Path) -> None:
        shutil.rmtree(folder)
        moved = (("dev" if u.dialogue_id == "train-9" else s, u) for s, u in rows(audio=False))
        make_dataset(folder, moved)  # type: ignore[arg-type]

    diff = compared(tmp_path, move)
    assert (diff.moved.count, diff.added.count, diff.removed.count) == (4, 0, 0)
    assert diff.moved.examples[0] == "dev/train-9/turn 0 (was in train)"
