"""Fetch dataset files from a DVC remote by digest, through DVC itself.

Git is not needed: each remote gets a scratch DVC project without SCM, whose cache all stages on this machine share. A complete
file in the cache is not fetched again, and a reader fetches only the shards that it needs.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import MissingObjectError
from mistere.artifacts.s3.probe import check_access, data_endpoint, data_store
from mistere.artifacts.usage import MOVED
from mistere.common.digests.files import digest_once
from mistere.common.errors import DataError, MistereError, UsageError
from mistere.common.names import check_md5, check_name, has_control_character, shown
from mistere.common.os_errors import disk_error
from mistere.common.parsing.documents import ParseError, load_json
from mistere.common.paths import cache_directory
from mistere.common.secrets.credentials import with_credentials
from mistere.common.secrets.private_files import write_private
from mistere.common.splits import SPLITS, Split
from mistere.common.urls import redact_url
from mistere.data.dataset import read_batches

if TYPE_CHECKING:
    from dvc.repo import Repo

TRACK_AGAIN = "track the folder again with `dvc add`, and push it"
"""The remedy for an invalid listing."""
_DIR_DIGEST = re.compile(r"[0-9a-f]{32}\.dir")


def shard_paths(
    reference: UtteranceSet, splits: Sequence[Split] = SPLITS, only: frozenset[str] | None = None
) -> dict[Split, dict[str, Path]]:
    """Local paths of a dataset's shards; fetches those that are not in the cache.

    Args:
        reference: the dataset.
        splits: fetch only these splits.
        only: fetch only the shards of these names; None for all.

    Returns:
        For each split its shards by name, in row order.

    Raises:
        MistereError: the remote lacks an object, or its content does not match the digest.
    """
    chosen = [shard for shard in reference.shards if only is None or shard.name in only]
    wanted = {split: sorted((s for s in chosen if s.split == split), key=lambda s: s.name) for split in splits}
    digests = {shard.name: shard.md5 for shards in wanted.values() for shard in shards}
    paths = RemoteData(reference.remote, reference.dvc_digest).fetch(digests)
    return {split: {shard.name: paths[shard.name] for shard in shards} for split, shards in wanted.items()}


def selected_dialogues(
    shards: Mapping[Split, Sequence[Path]], max_dialogues: int | None
) -> dict[Split, frozenset[str] | None]:
    """Choose the dialogues of each split for a run that is limited to ``max_dialogues`` in all.

    Each split gets its share, at least one. The choice depends on the names of the dialogues alone, so every reader of the same
    data makes the same; None stands for all dialogues.
    """
    if max_dialogues is None:
        return dict.fromkeys(shards)
    names = {split: _dialogue_names(paths) for split, paths in shards.items()}
    total = sum(len(dialogues) for dialogues in names.values())
    if total <= max_dialogues:
        return dict.fromkeys(shards)
    chosen: dict[Split, frozenset[str] | None] = {}
    for split, dialogues in names.items():
        share = max(1, round(max_dialogues * len(dialogues) / total)) if dialogues else 0
        ranked = sorted(dialogues, key=lambda name: hashlib.sha256(name.encode()).digest())
        chosen[split] = frozenset(ranked[:share])
    return chosen


def _dialogue_names(shards: Sequence[Path]) -> set[str]:
    names: set[str] = set()
    for batch in read_batches(shards, ["dialogue_id"], batch_rows=4096):
        names.update(name for name in batch.column("dialogue_id").to_pylist() if name is not None)
    return names


def _is_intact(path: Path, md5: str) -> bool:
    return path.is_file() and digest_once(path, "md5") == md5.removesuffix(".dir")


class RemoteData:
    """One version of a tracked folder in a DVC remote.

    Args:
        remote: URL of the remote, as DVC writes it.
        digest: the digest in ``data.dvc``, an MD5 with ``.dir``.
    """

    def __init__(self, remote: str, digest: str) -> None:
        if not _DIR_DIGEST.fullmatch(digest):
            raise UsageError(
                f"{shown(digest)} is not the digest of a folder tracked by DVC (32 hexadecimal digits and '.dir'): copy it "
                "from the .dvc file."
            )
        check_remote(remote)
        self.remote, self.digest = remote, digest
        self._project = cache_directory("dvc", hashlib.sha256(remote.encode()).hexdigest()[:16])

    def listing(self) -> dict[str, str]:
        """The MD5 of every file in the folder by relative path, as DVC recorded it.

        Raises:
            MistereError: the remote lacks it, or it is damaged there.
            DataError: it names a file that is not below the folder.
        """
        path = self._cached(self.digest)
        if not _is_intact(path, self.digest):

            def fetch_objects(repo: Repo) -> None:
                self._drop_damaged([self.digest])
                repo.stage.load_one(path=str(self._project / "data.dvc")).outs[0].get_dir_cache()

            self._with_dvc(fetch_objects)
            self._require_intact(path, self.digest, "the folder's listing")
        return read_listing(path.read_bytes(), f"the listing {self.digest} in {redact_url(self.remote)}")

    def fetch(self, digests: Mapping[str, str]) -> dict[str, Path]:
        """Fetch files into the cache.

        Args:
            digests: MD5 by relative path.

        Returns:
            Path in the cache by relative path. The files are shared and read-only: never write to them.

        Raises:
            DataError: a name or digest is invalid.
            MistereError: the remote lacks the file or holds a damaged one.
        """
        for name in digests:
            check_name(name, f"the dataset {self.digest}", DataError, TRACK_AGAIN)
        missing = [name for name, md5 in digests.items() if not _is_intact(self._cached(md5), md5)]
        if missing:

            def fetch_objects(repo: Repo) -> None:
                self._drop_damaged([digests[name] for name in missing])
                repo.fetch(targets=[str(self._project / "data" / name) for name in missing])

            self._with_dvc(fetch_objects)
            for name in missing:
                self._require_intact(self._cached(digests[name]), digests[name], f"data/{name}")
                MOVED.add(read=self._cached(digests[name]).stat().st_size)
        return {name: self._cached(md5) for name, md5 in digests.items()}

    def adopt(self, copies: Mapping[str, Sequence[Path]]) -> bool:
        """Copy into the cache what it lacks and this machine has elsewhere.

        Args:
            copies: paths that may hold a file, by its digest; a path with another content is skipped.

        Returns:
            Whether the cache now holds all of the files.
        """
        complete = True
        for md5, paths in copies.items():
            target = self._cached(md5)
            if _is_intact(target, md5):
                continue
            source = next((path for path in paths if _is_intact(path, md5)), None)
            if source is None:
                complete = False
                continue
            with _locked(self._project):
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.tmp")
                shutil.copyfile(source, partial)
                partial.replace(target)
            complete = complete and _is_intact(target, md5)  # the source may have changed meanwhile
        return complete

    def _drop_damaged(self, digests: Sequence[str]) -> None:
        """Delete damaged files so that DVC fetches them again; runs under the lock, so a file that another process repaired stays."""
        for md5 in digests:
            if not _is_intact(self._cached(md5), md5):
                self._cached(md5).unlink(missing_ok=True)

    def _require_intact(self, path: Path, md5: str, what: str) -> None:
        if not path.is_file() and self.remote.startswith("s3://"):
            with suppress(MissingObjectError):  # if the transfer broke off, DVC does not say why
                data_store(self.remote).download(f"files/md5/{md5[:2]}/{md5[2:]}", path)
        if not path.is_file():
            raise MistereError(
                f"{what} ({md5}) is missing from the DVC remote {redact_url(self.remote)}: push it again with `dvc push`."
            )
        if not _is_intact(path, md5):
            path.chmod(0o644)
            path.unlink()
            raise MistereError(
                f"{what} is corrupt in the DVC remote {redact_url(self.remote)}: its content is not {md5}; push it again from "
                "an intact copy."
            )

    def _cached(self, md5: str) -> Path:
        check_md5(md5.removesuffix(".dir"), f"a file of {self.digest}")
        return self._project / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    def _with_dvc(self, action: Callable[[Repo], object]) -> None:
        from dvc.exceptions import DownloadError, DvcException, FileTransferError

        try:
            with dvc_project(self._project, self.remote) as repo:
                if self.remote.startswith("s3://"):
                    check_access(self.remote, listing=False)  # DVC would retry for minutes and give no reason
                tracked = {"outs": [{"md5": self.digest, "hash": "md5", "path": "data"}]}
                (self._project / "data.dvc").write_text(yaml.safe_dump(tracked), encoding="utf-8")
                action(repo)
        except (DownloadError, FileTransferError, FileNotFoundError):
            return  # the caller checks which files arrived and names the missing ones
        except (DvcException, OSError) as error:
            if failure := disk_error(error, self._project):
                raise failure from error
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise MistereError(
                f"DVC could not fetch {self.digest} from {redact_url(self.remote)} ({reason}): check that the remote holds it "
                "(`dvc push`) and that this machine has read access."
            ) from error


def read_listing(content: bytes, what: str) -> dict[str, str]:
    """The MD5 of every file by relative path, from a listing (``.dir`` object) as DVC writes it.

    Args:
        content: the listing.
        what: names it in errors.

    Raises:
        DataError: it is no listing, or a name or digest in it could lead out of the folder or the cache.
    """
    try:
        entries = [(entry["relpath"], entry["md5"]) for entry in load_json(content)]
    except (ParseError, LookupError, TypeError) as error:
        raise DataError(f"{what} is not a listing that DVC wrote: {TRACK_AGAIN}.") from error
    return {
        check_name(name, what, DataError, TRACK_AGAIN): check_md5(md5, f"{shown(name)} in {what}")
        for name, md5 in entries
    }


def check_remote(remote: str) -> None:
    """Refuse a remote with a line break or another control character, which records and messages could not show.

    Raises:
        UsageError: it holds one.
    """
    if has_control_character(remote):
        raise UsageError(
            f"the DVC remote {shown(redact_url(remote))} holds a control character: rename the folder, or correct the URL."
        )


def remote_settings(remote: str, endpoint: str = "") -> dict[str, str]:
    """A remote's section in DVC's configuration.

    It is passed to DVC as an object or written by DVC's own writer, never as text: a folder's name may hold ``#``, a comma,
    or quotes, which mean something else in that file.

    Args:
        remote: URL of the remote, or the path of a folder.
        endpoint: of S3; empty for the default.
    """
    url = remote if "://" in remote else str(Path(remote).absolute())
    return {"url": url, **({"endpointurl": endpoint} if endpoint and remote.startswith("s3://") else {})}


@contextmanager
def dvc_project(project: Path, remote: str) -> Iterator[Repo]:
    """A scratch DVC project with one remote, no Git and no analytics, locked against other processes.

    Credentials reach DVC from the environment (:mod:`mistere.common.secrets.credentials`) and are written to no file.
    """
    from dvc.repo import Repo

    check_remote(remote)
    with _locked(project), _quiet_dvc():
        for partial in (project / "cache" / "files" / "md5").glob("*/.*.tmp"):  # left by a killed pull
            partial.unlink(missing_ok=True)
        if not (project / ".dvc").is_dir():
            Repo.init(str(project), no_scm=True).close()
        write_private(project / ".dvc" / "config", "")  # earlier releases wrote the remote into it
        settings = {
            "core": {"analytics": False, "no_scm": True, "remote": "data"},
            "cache": {"dir": str(project / "cache")},
            "remote": {"data": remote_settings(with_credentials(remote), data_endpoint() or "")},
        }
        with closing(Repo(str(project), config=settings)) as repo:
            yield repo


@contextmanager
def _locked(project: Path) -> Iterator[None]:
    """Exclude other processes from a scratch project; its folder is made first."""
    project.mkdir(parents=True, exist_ok=True)
    with open(project / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _quiet_dvc() -> Iterator[None]:
    """Silence DVC's logs and messages: a run has its own display, and failures are raised as exceptions."""
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
