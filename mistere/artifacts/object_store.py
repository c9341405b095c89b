"""The object store for artifacts, steps, checkpoints, reports and the champion: a local folder, or ``s3://``.

Every write is atomic. :meth:`ObjectStore.write` can be conditional, so that two runs never overwrite each other's change of
the champion pointer.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mistere.common.errors import MistereError, UsageError
from mistere.common.names import path_below, problem, shown

AFFECTS_RESULTS = False
"""Objects are addressed by content and verified, so where and how they are stored changes no result."""

ABSENT: Final = ""
"""Value of ``expected`` for a conditional write of an object that must not exist yet."""


class MissingObjectError(MistereError):
    """There is no object under the key."""


class UnreachableError(MistereError):
    """The store does not answer or has an internal error; a later attempt may succeed."""


class ConflictError(MistereError):
    """A conditional write failed because the object has changed since it was read."""


class ObjectStore(ABC):
    """Interface of a store. Keys are relative POSIX paths; values are bytes or files."""

    uri: str

    @abstractmethod
    def read(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and its version, for a later conditional write.

        Raises:
            MissingObjectError: no such object.
        """

    @abstractmethod
    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        """Write an object and return its version.

        Args:
            key: the object's key.
            data: its content.
            expected: the version that it must have now (:data:`ABSENT`: none); None overwrites any version.

        Raises:
            ConflictError: the object has another version.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Whether there is an object under the key."""

    @abstractmethod
    def upload(self, path: Path, key: str) -> None:
        """Copy a file into the store, as a stream."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copy an object into a file, as a stream; the file appears atomically.

        Raises:
            MissingObjectError: no such object.
        """

    @abstractmethod
    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Every key under ``prefix/`` with a version that changes when the object does."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key under ``prefix/``."""
        return (key for key, _ in self.versions(prefix))

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Delete every object under ``prefix/``."""

    @abstractmethod
    def delete_object(self, key: str) -> None:
        """Delete one object, if it exists."""

    def local_path(self, key: str) -> Path | None:
        """Path of the object on this machine's disk; None for a remote store."""
        return None

    def _conflict(self, key: str) -> ConflictError:
        return ConflictError(f"{self.location(key)} was changed by another process meanwhile; run again.")

    def location(self, key: str) -> str:
        """URI or path of an object, for people and other systems."""
        return f"{self.uri.rstrip('/')}/{key}"


_LOCK: Final = ".lock"
"""The file in a folder of a :class:`LocalStore` that conditional writes lock."""


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _checked(key: str) -> str:
    if reason := problem(key):
        raise UsageError(f"{shown(key)} is not a key of the object store, because it {reason}: use a relative path.")
    return key


class LocalStore(ObjectStore):
    """A folder. Writes go to a temporary name beside the target and are renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = str(self.root)

    def local_path(self, key: str) -> Path:
        return self.root / _checked(key)

    def read(self, key: str) -> tuple[bytes, str]:
        try:
            data = self.local_path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise MissingObjectError(f"{self.location(key)} does not exist.") from error
        return data, _version(data)

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        path = self._target(key)
        if expected is None:
            self._replace(path, data)
            return _version(data)
        with open(path.with_name(_LOCK), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            current = _version(path.read_bytes()) if path.is_file() else ABSENT
            if current != expected:
                raise self._conflict(key)
            self._replace(path, data)
        return _version(data)

    def exists(self, key: str) -> bool:
        return self.local_path(key).is_file()

    def upload(self, path: Path, key: str) -> None:
        target = self._target(key)
        self._copy(path, target)

    def download(self, key: str, path: Path) -> None:
        source = self.local_path(key)
        if not source.is_file():
            raise MissingObjectError(f"{self.location(key)} does not exist.")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._copy(source, path)

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        base = self.local_path(prefix)
        for path in sorted(base.rglob("*")) if base.is_dir() else []:
            hidden = any(part.startswith(".") for part in path.relative_to(base).parts)  # locks, unfinished writes
            if path.is_file() and not hidden:
                status = path.stat()
                yield path.relative_to(self.root).as_posix(), f"{status.st_size}-{status.st_mtime_ns}"

    def delete(self, prefix: str) -> None:
        shutil.rmtree(self._deletable(prefix), ignore_errors=True)

    def delete_object(self, key: str) -> None:
        self._deletable(key).unlink(missing_ok=True)

    def _deletable(self, key: str) -> Path:
        """The path of a key to delete. Stores may share folders by links; nothing is deleted through such a link."""
        return path_below(self.root, _checked(key), f"the store {self.root}", MistereError, "delete the link yourself")

    def sweep(self, prefix: str, seconds: float) -> None:
        """Delete what killed processes left of unfinished writes under ``prefix/`` longer ago than ``seconds``."""
        limit = time.time() - seconds
        for path in self.local_path(prefix).rglob(".*"):
            with suppress(OSError):  # another process sweeps as well
                if path.name != _LOCK and path.is_file() and path.stat().st_mtime < limit:
                    path.unlink()

    def _target(self, key: str) -> Path:
        path = self.local_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MistereError(f"cannot write to {path.parent} ({error.strerror}): choose another --output.") from error
        return path

    @staticmethod
    def _partial(path: Path) -> Path:
        return path.with_name(f".{path.name}.{uuid.uuid4().hex}")

    def _copy(self, source: Path, target: Path) -> None:
        partial = self._partial(target)
        try:
            shutil.copyfile(source, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def _replace(self, path: Path, data: bytes) -> None:
        partial = self._partial(path)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


_BUSY_PAUSES: Final = (0.2, 0.5, 1.0)
"""Seconds before each repetition of a conditional put that collided with another one in progress."""


class S3Store(ObjectStore):
    """A bucket and prefix, through boto3. Credentials and endpoint come from the environment, as boto3 reads them."""

    def __init__(self, uri: str) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError

        self.uri = uri.rstrip("/")
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix.strip("/")
        try:
            self._s3: Any = boto3.client("s3")
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"{uri}: cannot create an S3 client ({error}): check AWS_ENDPOINT_URL.") from error

    def _key(self, key: str) -> str:
        return f"{self._prefix}/{_checked(key)}" if self._prefix else _checked(key)

    def _failure(self, error: Exception, key: str) -> MistereError:
        from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

        code = error.response["Error"].get("Code", "") if isinstance(error, ClientError) else type(error).__name__
        if code in {"NoSuchKey", "404", "NotFound"}:
            return MissingObjectError(f"{self.location(key)} does not exist.")
        if code in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
            return self._conflict(key)
        away = isinstance(error, HTTPClientError | EndpointConnectionError)
        if away or (
            isinstance(error, ClientError) and error.response["ResponseMetadata"].get("HTTPStatusCode", 0) >= 500
        ):
            return UnreachableError(
                f"the object store refused {self.location(key)} ({code}): it does not answer; check AWS_ENDPOINT_URL, and that "
                "the store is running."
            )
        return MistereError(
            f"the object store refused {self.location(key)} ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
            "AWS_ENDPOINT_URL, and that the bucket exists."
        )

    def _call(self, key: str, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._s3, operation)(Bucket=self._bucket, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise self._failure(error, key) from error

    def read(self, key: str) -> tuple[bytes, str]:
        from botocore.exceptions import BotoCoreError

        answer = self._call(key, "get_object", Key=self._key(key))
        try:
            return answer["Body"].read(), answer["ETag"]
        except BotoCoreError as error:
            raise self._failure(error, key) from error

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        condition: dict[str, str] = {}
        if expected == ABSENT:
            condition["IfNoneMatch"] = "*"
        elif expected is not None:
            condition["IfMatch"] = expected.strip('"')  # Ceph compares with the bare digest; others take both spellings
        for wait in (*_BUSY_PAUSES, None):
            try:
                return str(self._call(key, "put_object", Key=self._key(key), Body=data, **condition)["ETag"])
            except MissingObjectError as error:
                raise self._conflict(key) from error
            except ConflictError as error:
                # boto3 repeats a request whose response was lost; the conflicting object is then our own write.
                with suppress(MissingObjectError):
                    current, version = self.read(key)
                    if current == data:
                        return version
                busy = "ConditionalRequestConflict" in str(error.__cause__)
                if wait is None or not busy:
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def exists(self, key: str) -> bool:
        try:
            self._call(key, "head_object", Key=self._key(key))
        except MissingObjectError:
            return False
        return True

    def upload(self, path: Path, key: str) -> None:
        from boto3.exceptions import S3UploadFailedError

        try:
            self._call(key, "upload_file", Filename=str(path), Key=self._key(key))
        except S3UploadFailedError as error:
            raise self._failure(error, key) from error

    def download(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            self._call(key, "download_file", Filename=str(partial), Key=self._key(key))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        from botocore.exceptions import BotoCoreError, ClientError

        skip = len(self._prefix) + 1 if self._prefix else 0
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{self._key(prefix)}/")
        try:
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"][skip:], item["ETag"]
        except (BotoCoreError, ClientError) as error:
            raise self._failure(error, prefix) from error

    def delete(self, prefix: str) -> None:
        for key in list(self.keys(prefix)):
            self.delete_object(key)

    def delete_object(self, key: str) -> None:
        self._call(key, "delete_object", Key=self._key(key))


def open_store(uri: str) -> ObjectStore:
    """Open the store of a URI: ``s3://bucket/prefix`` or a folder.

    Raises:
        UsageError: another scheme, or no client can be created.
    """
    if uri.startswith("s3://"):
        return S3Store(uri)
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"{uri}: the object store is a folder or s3://bucket/prefix.")
    return LocalStore(Path(uri.removeprefix("file://")))
