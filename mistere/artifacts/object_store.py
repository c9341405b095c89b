"""The object store for artifacts, steps, checkpoints, reports and the champion: a local folder, or ``s3://``.

Every write is atomic. :meth:`ObjectStore.write` can be conditional, so that two runs never overwrite each other's change of
the champion pointer.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.usage import MOVED
from mistere.common.errors import MistereError, UsageError
from mistere.common.names import check_name, path_below
from mistere.common.paths import path_of
from mistere.common.urls import has_credentials

AFFECTS_RESULTS = False
"""Objects are addressed by content and verified, so where and how they are stored changes no result."""

ABSENT: Final = ""
"""Value of ``expected`` for a conditional write of an object that must not exist yet."""


class StoreError(MistereError):
    """The object store did not do what it should have done.

    Attributes:
        failure: name of the row in :mod:`mistere.artifacts.s3.failures`; empty for a folder.
    """

    def __init__(self, message: str, failure: str = "") -> None:
        super().__init__(message)
        self.failure = failure


class MissingObjectError(StoreError):
    """There is no object under the key."""


class UnreachableError(StoreError):
    """The store does not answer, or failed for a passing reason; a later attempt may succeed."""


class ConflictError(StoreError):
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
    def age(self, key: str) -> float:
        """Seconds since the object was written, by the store's own clock: those of two machines may differ by any amount.

        Raises:
            MissingObjectError: no such object.
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
        """Delete every object under ``prefix/``; one that is written meanwhile may remain.

        Raises:
            StoreError: an object cannot be deleted.
        """

    @abstractmethod
    def delete_object(self, key: str) -> None:
        """Delete one object, if it exists.

        Raises:
            StoreError: it cannot be deleted.
        """

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


_ATTEMPTS: Final = 20
"""How often a folder is made again that another process deletes between its making and the writing of a file into it."""


_GONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY}
"""What is no failure of a deletion: there is nothing, or another process writes into the folder at the same time."""


def _version(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_below(base: Path) -> Iterator[Path]:
    """The files below a folder, in no order; what another process deletes meanwhile is in it or not. Links to folders are not followed."""
    for folder, _, names in os.walk(base):
        yield from (Path(folder) / name for name in names)


def checked_key(key: str) -> str:
    """The key, if it is a relative path below the store.

    Raises:
        UsageError: it is not.
    """
    return check_name(key, "the request to the object store", UsageError, "use a relative path")


class LocalStore(ObjectStore):
    """A folder. Writes go to a temporary name beside the target and are renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = str(self.root)

    def local_path(self, key: str) -> Path:
        return self.root / checked_key(key)

    def read(self, key: str) -> tuple[bytes, str]:
        try:
            data = self.local_path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise MissingObjectError(f"{self.location(key)} does not exist.") from error
        MOVED.add(read=len(data))
        return data, _version(data)

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        def write_to(path: Path) -> None:
            if expected is None:
                self._replace(path, data)
                return
            with open(path.with_name(_LOCK), "w", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    current = _version(path.read_bytes())
                except (FileNotFoundError, IsADirectoryError):
                    current = ABSENT
                if current != expected:
                    raise self._conflict(key)
                self._replace(path, data)

        self._write_below(key, write_to)
        return _version(data)

    def age(self, key: str) -> float:
        path = self.local_path(key)
        partial = self._partial(path)
        try:
            written = path.stat().st_mtime
            with suppress(OSError):  # of a folder that is only read: this machine's clock
                partial.touch(exist_ok=False)  # a network folder's server sets the times
                return partial.stat().st_mtime - written
            return time.time() - written
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"{self.location(key)} does not exist.") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    def exists(self, key: str) -> bool:
        return self.local_path(key).is_file()

    def upload(self, path: Path, key: str) -> None:
        size = path.stat().st_size
        self._write_below(key, lambda target: self._copy(path, target))
        MOVED.add(written=size)

    def download(self, key: str, path: Path) -> None:
        source = self.local_path(key)
        if not source.is_file():
            raise MissingObjectError(f"{self.location(key)} does not exist.")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._copy(source, path)
        except FileNotFoundError as error:
            if source.is_file():
                raise
            raise MissingObjectError(f"{self.location(key)} does not exist.") from error  # deleted meanwhile
        MOVED.add(read=path.stat().st_size)

    def versions(self, prefix: str) -> Iterator[tuple[str, str]]:
        base = self.local_path(prefix)
        for path in sorted(files_below(base)):
            if any(part.startswith(".") for part in path.relative_to(base).parts):  # locks, unfinished writes
                continue
            with suppress(FileNotFoundError, NotADirectoryError):  # deleted meanwhile
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    yield path.relative_to(self.root).as_posix(), f"{status.st_size}-{status.st_mtime_ns}"

    def delete(self, prefix: str) -> None:
        failures: list[StoreError] = []

        def fail(_function: object, path: str, raised: tuple[Any, Any, Any]) -> None:
            if raised[1].errno not in _GONE:
                failures.append(self._undeletable(raised[1], Path(path)))

        shutil.rmtree(self._deletable(prefix), onerror=fail)  # goes on after a failure
        if failures:
            raise failures[0]

    def delete_object(self, key: str) -> None:
        path = self._deletable(key)
        try:
            path.unlink()
        except OSError as error:
            if error.errno not in _GONE:
                raise self._undeletable(error, path) from error

    @staticmethod
    def _undeletable(error: OSError, path: Path) -> StoreError:
        return StoreError(
            f"cannot delete {path} ({error.strerror or error}): correct its owner and permissions, or delete it yourself."
        )

    def _deletable(self, key: str) -> Path:
        """The path of a key to delete. Stores may share folders by links; nothing is deleted through such a link."""
        return path_below(
            self.root, checked_key(key), f"the store {self.root}", MistereError, "delete the link yourself"
        )

    def sweep(self, prefix: str, seconds: float) -> None:
        """Delete what killed processes left of unfinished writes under ``prefix/`` longer ago than ``seconds``."""
        limit = time.time() - seconds
        for path in files_below(self.local_path(prefix)):
            with suppress(OSError):  # another process sweeps as well
                if path.name.startswith(".") and path.name != _LOCK and path.stat().st_mtime < limit:
                    path.unlink()

    def _write_below(self, key: str, write: Callable[[Path], object]) -> None:
        """Write a file below a folder that another process may delete at the same time, which is then made again.

        Args:
            key: of the object.
            write: receives the path.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                write(self._target(key))
                return
            except (FileNotFoundError, MistereError) as error:
                cause = error.__cause__ or error
                parent = self.local_path(key).parent
                # A folder that is deleted between its creation and the look at it counts as "File exists" to Path.mkdir.
                exists = isinstance(cause, FileExistsError) and (parent.is_dir() or not parent.exists())
                if not (isinstance(cause, FileNotFoundError) or exists) or attempt == _ATTEMPTS:
                    raise

    def _target(self, key: str) -> Path:
        path = self.local_path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MistereError(f"cannot write to {path.parent} ({error.strerror}): choose another folder.") from error
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
            MOVED.add(written=len(data))
        finally:
            partial.unlink(missing_ok=True)


def open_store(uri: str, encryption: str = "") -> ObjectStore:
    """Open the store of a URI: ``s3://bucket/prefix`` or a folder.

    Args:
        uri: the location.
        encryption: how S3 encrypts what is written, as in :func:`mistere.artifacts.s3.encryption.encryption_arguments`; empty for the
            bucket's default.

    Raises:
        UsageError: another scheme, credentials in the URI, no client can be created, or an encryption that there is not.
    """
    if "://" in uri and has_credentials(uri):
        raise UsageError(
            f"the store {uri} contains credentials, which every record of a run would show: remove them, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if uri.startswith("s3://"):
        from mistere.artifacts.s3.store import S3Store

        return S3Store(uri, encryption=encryption)
    if "://" in uri and not uri.startswith("file://"):
        raise UsageError(f"{uri}: the object store is a folder or s3://bucket/prefix.")
    if encryption:
        raise UsageError(f"{uri} is a folder, which does not encrypt: leave the encryption out, and encrypt the disk.")
    return LocalStore(path_of(uri))
