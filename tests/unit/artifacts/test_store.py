"""Both object stores fulfil one contract, and each failure is one sentence."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.object_store import (
    ABSENT,
    ConflictError,
    LocalStore,
    MissingObjectError,
    ObjectStore,
    open_store,
)
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import MistereError, UsageError
from tests.local.servers import free_port


def test_read_returns_the_last_write_and_its_version(store: ObjectStore) -> None:
    first = store.write("a/b.json", b"one")
    assert store.read("a/b.json") == (b"one", first)
    second = store.write("a/b.json", b"two")
    assert store.read("a/b.json") == (b"two", second)
    assert first != second


def test_empty_object_exists(store: ObjectStore) -> None:
    store.write("empty", b"")
    assert store.exists("empty") and store.read("empty")[0] == b""


def test_exists_is_true_for_objects_only(store: ObjectStore) -> None:
    store.write("runs/one/run.json", b"{}")
    assert store.exists("runs/one/run.json")
    assert not store.exists("runs/one")
    assert not store.exists("runs/one/run")


def test_keys_lists_objects_below_the_prefix_only(store: ObjectStore) -> None:
    for key in ("runs/one/a", "runs/one/deep/b", "runs/one-more/c", "runs/on", "run/d"):
        store.write(key, b"x")
    assert sorted(store.keys("runs/one")) == ["runs/one/a", "runs/one/deep/b"]
    assert list(store.keys("runs/o")) == []
    assert list(store.keys("nothing")) == []


def test_delete_removes_the_prefix_only(store: ObjectStore) -> None:
    for key in ("runs/one/a", "runs/one/deep/b", "runs/one-more/c"):
        store.write(key, b"x")
    store.delete("runs/one")
    store.delete("runs/one")
    assert list(store.keys("runs")) == ["runs/one-more/c"]


def test_a_deletion_in_a_folder_says_what_it_could_not_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, unlink = LocalStore(tmp_path), os.unlink
    for key in ("a/mine", "a/theirs", "a/z", "file"):
        store.write(key, b"x")

    def refuse(path: Any, **options: Any) -> None:
        if str(path).endswith("theirs"):
            raise PermissionError(errno.EACCES, "Permission denied", "theirs")
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    for delete in (lambda: store.delete("a"), lambda: store.delete_object("a/theirs")):
        with pytest.raises(MistereError) as caught:
            delete()
        assert str(caught.value).startswith(f"cannot delete {tmp_path}/a/theirs (Permission denied): correct its owner")
    assert list(store.keys("a")) == ["a/theirs"]  # the others are gone
    for nothing in ("a/theirs/below", "file"):  # no folder
        store.delete(nothing)
    store.delete_object("file/below")
    assert store.exists("file")


def test_delete_object_ignores_a_missing_object(store: ObjectStore) -> None:
    store.write("a/x", b"x")
    store.write("a/y", b"y")
    store.delete_object("a/x")
    store.delete_object("a/x")
    assert list(store.keys("a")) == ["a/y"]


def test_upload_and_download_keep_the_bytes(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(256)) * 4096)
    store.upload(source, "blobs/deep/one.bin")
    target = tmp_path / "new" / "folder" / "target.bin"
    store.download("blobs/deep/one.bin", target)
    assert target.read_bytes() == source.read_bytes() == store.read("blobs/deep/one.bin")[0]
    assert list(target.parent.iterdir()) == [target]
    assert list(store.keys("blobs")) == ["blobs/deep/one.bin"]


def test_missing_object_is_named(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(MissingObjectError, match=r"not/there does not exist\.$"):
        store.read("not/there")
    with pytest.raises(MissingObjectError, match=r"not/there does not exist\.$"):
        store.download("not/there", tmp_path / "target")
    assert list(tmp_path.glob("*target*")) == []


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "/etc/passwd", "", "."])
def test_keys_outside_the_store_are_rejected(store: ObjectStore, key: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    for call in (
        lambda: store.read(key),
        lambda: store.write(key, b"x"),
        lambda: store.exists(key),
        lambda: store.upload(file, key),
        lambda: store.download(key, tmp_path / "target"),
        lambda: list(store.keys(key)),
        lambda: store.delete(key),
        lambda: store.delete_object(key),
    ):
        with pytest.raises(UsageError, match="the request to the object store names"):
            call()


def test_conditional_write_requires_the_current_version(store: ObjectStore) -> None:
    first = store.write("pointer", b"one", expected=ABSENT)
    second = store.write("pointer", b"two", expected=first)
    for stale in (ABSENT, first):
        with pytest.raises(ConflictError, match="changed by another process"):
            store.write("pointer", b"three", expected=stale)
    assert store.read("pointer") == (b"two", second)


def test_repeated_conditional_write_is_idempotent(s3_store: S3Store) -> None:
    """boto3 retries a request when its response is lost."""
    first = s3_store.write("pointer", b"one", expected=ABSENT)
    assert s3_store.write("pointer", b"one", expected=ABSENT) == first
    second = s3_store.write("pointer", b"two", expected=first)
    assert s3_store.write("pointer", b"two", expected=first) == second
    with pytest.raises(ConflictError):
        s3_store.write("pointer", b"three", expected=first)


def test_conditional_write_to_a_deleted_object_raises_conflict(store: ObjectStore) -> None:
    version = store.write("pointer", b"one")
    store.delete_object("pointer")
    with pytest.raises(ConflictError):
        store.write("pointer", b"two", expected=version)
    assert not store.exists("pointer")


@pytest.mark.parametrize("exists", [False, True])
def test_one_of_several_concurrent_writers_succeeds(store: ObjectStore, exists: bool) -> None:
    expected = store.write("pointer", b"start") if exists else ABSENT
    barrier, outcomes = threading.Barrier(4), []

    def write(name: int) -> None:
        writer = open_store(store.uri)
        barrier.wait()
        try:
            writer.write("pointer", b"%d" % name, expected=expected)
            outcomes.append(name)
        except ConflictError:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [name for name in outcomes if name is not None]
    assert len(outcomes) == 4 and len(winners) == 1
    assert store.read("pointer")[0] == b"%d" % winners[0]


def test_keys_omits_locks_and_unfinished_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write("a/pointer", b"x", expected=ABSENT)
    (tmp_path / "a" / ".unfinished.1234").mkdir()
    (tmp_path / "a" / ".unfinished.1234" / "file").write_bytes(b"x")
    assert list(store.keys("a")) == ["a/pointer"]


def test_failed_upload_leaves_no_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises(FileNotFoundError):
        store.upload(tmp_path / "no such file", "a/b")
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_file_at_the_store_path_is_reported(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(MistereError, match=r"cannot write to .*choose another folder\."):
        LocalStore(tmp_path / "store").write("a/b", b"x")


def test_open_store_chooses_the_store_by_uri(s3_store: S3Store, tmp_path: Path) -> None:
    s3_store.write("a", b"x")
    assert open_store(s3_store.uri + "/").read("a")[0] == b"x"
    LocalStore(tmp_path).write("a", b"y")
    assert open_store(str(tmp_path)).read("a")[0] == open_store(f"file://{tmp_path}").read("a")[0] == b"y"
    with pytest.raises(UsageError, match="folder or s3://"):
        open_store("gs://bucket/prefix")


def test_bucket_without_prefix_is_accepted(s3_store: S3Store) -> None:
    bucket = S3Store("s3://mistere-tests")
    prefix = s3_store.uri.rsplit("/", 1)[1]
    s3_store.write("a/b", b"x")
    assert list(bucket.keys(prefix)) == [f"{prefix}/a/b"]
    assert bucket.location("a") == "s3://mistere-tests/a"


def _error_messages(store: S3Store, tmp_path: Path) -> list[str]:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    messages = []
    for call in (
        lambda: store.read("a"),
        lambda: store.write("a", b"x"),
        lambda: store.upload(file, "a"),
        lambda: list(store.keys("a")),
        lambda: store.delete("a"),
        lambda: store.delete_object("a"),
    ):
        with pytest.raises(MistereError) as caught:
            call()
        assert not isinstance(caught.value, MissingObjectError | ConflictError)
        messages.append(str(caught.value))
    assert all("\n" not in message and message.endswith(".") for message in messages)
    return messages


def test_unreachable_endpoint_is_reported(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    store = S3Store(s3_store.uri)
    assert all("AWS_ENDPOINT_URL" in message for message in _error_messages(store, tmp_path))
    with pytest.raises(MistereError, match="AWS_ENDPOINT_URL"):
        store.exists("a")


def test_missing_credentials_are_reported(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # the session caches the first credentials
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert all("AWS_ACCESS_KEY_ID" in message for message in _error_messages(S3Store(s3_store.uri), tmp_path))


def test_missing_bucket_is_reported(s3_store: S3Store, tmp_path: Path) -> None:
    messages = _error_messages(S3Store("s3://no-such-bucket/prefix"), tmp_path)
    assert all("the bucket of s3://no-such-bucket/prefix" in message for message in messages)
    with pytest.raises(MistereError, match="the bucket of s3://no-such-bucket/prefix/a does not exist"):
        S3Store("s3://no-such-bucket/prefix").exists("a")


def test_invalid_endpoint_url_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "no url")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL"):
        open_store("s3://bucket/prefix")


def test_checkpoints_are_restored_on_another_machine(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "first"))
    first = Checkpoints(store, "stage", "key")
    first.restore()
    for name in ("checkpoint-1", "checkpoint-2", "checkpoint-3"):
        (first.directory / name).mkdir()
        (first.directory / name / "weights").write_text(name)
        if name == "checkpoint-3":
            for file in (first.directory / "checkpoint-2").iterdir():
                file.unlink()
            (first.directory / "checkpoint-2").rmdir()
        first.save(name)
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "second"))
    second = Checkpoints(store, "stage", "key")
    second.restore()
    assert sorted(path.name for path in second.directory.iterdir()) == ["checkpoint-1", "checkpoint-3"]
    assert (second.directory / "checkpoint-1" / "weights").read_text() == "checkpoint-1"
    second.clear()
    assert list(store.keys("checkpoints")) == [] and not second.directory.exists()


def test_incomplete_checkpoint_is_ignored(s3_store: S3Store) -> None:
    key = hashlib.sha256(s3_store.uri.encode()).hexdigest()
    s3_store.write(f"checkpoints/stage/{key}/checkpoint-7/weights", b"half")
    checkpoints = Checkpoints(s3_store, "stage", key)
    checkpoints.restore()
    assert list(checkpoints.directory.iterdir()) == []


def test_a_folder_works_beside_a_process_that_deletes(tmp_path: Path) -> None:
    """A listing, a copy or a write meets files and folders that are gone between two of its steps."""
    store, source, stop = LocalStore(tmp_path / "store"), tmp_path / "source", threading.Event()
    source.write_bytes(b"source")

    def delete() -> None:
        while not stop.wait(0.01):
            store.delete("sample/1")
            store.delete_object("sample/1/deep/2")

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            for name in range(20):
                store.upload(source, f"sample/1/deep/{name}")
            store.write("sample/1/deep/one", b"x")
            with suppress(ConflictError):
                store.write("sample/1/deep/two", b"x", expected=ABSENT)
            for key in store.keys("sample"):
                assert key.startswith("sample/1/deep/")
                with suppress(MissingObjectError):
                    store.download(key, tmp_path / "copy")
            store.sweep("sample", 3600)
    finally:
        stop.set()
        deleting.join()


def test_a_folder_deleted_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To Path.mkdir, a folder that is deleted before it looks at it is a file: "File exists"."""
    mkdir, found = os.mkdir, []

    def exists(path: str, mode: int = 0o777) -> None:
        if not found:
            found.append(path)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", exists)
    LocalStore(tmp_path).write("one/deep/object", b"x")
    assert found and (tmp_path / "one/deep/object").read_bytes() == b"x"


def test_a_listing_leaves_out_what_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    for name in "abc":
        store.write(f"one/{name}", b"x")
    stat = Path.stat

    def deleting(path: Path, **options: bool) -> os.stat_result:
        if path.name == "b":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", deleting)
    assert list(store.keys("one")) == ["one/a", "one/c"]
