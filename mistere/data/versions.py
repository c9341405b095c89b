"""Resolve a data source to a pinned version: a DVC digest and a remote.

A source is a folder in the dataset form, a ``.dvc`` file, ``FILE.dvc@REVISION`` (the file at a Git revision), a Git revision (of
``data.dvc``), or a DVC digest (in the default remote of the current project). The command that starts a run resolves it, never a
stage, so a container needs no Git and no working tree.

The folder ``.dvc/sample-remote`` of this repository has the layout of a DVC remote and holds the sample dataset and nothing else.
No setting of DVC names it, so no ``dvc push`` writes to it. Git ignores any other object there, and those are refused here.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from mistere.artifacts.s3.probe import check_access
from mistere.common.digests.git_problems import git_problem
from mistere.common.errors import MistereError, UsageError
from mistere.common.os_errors import disk_error
from mistere.common.parsing.documents import ParseError, load_yaml
from mistere.common.paths import cache_directory, require_cache
from mistere.common.processes.command_line import command_line
from mistere.common.secrets.credentials import without_credentials
from mistere.data.dvc_remote import dvc_project
from mistere.data.local_copies import LocalCopies

_DIGEST = re.compile(r"[0-9a-f]{32}\.dir")
_TRACKED = "data.dvc"
_OWN_STORAGE = (
    "add a storage of your own with `dvc remote add --default NAME URL`, and push the data there with `dvc push`"
)
_GIT_SECONDS = 30


@dataclass(frozen=True)
class PinnedData:
    """A dataset version.

    Attributes:
        digest: its DVC digest.
        remote: the remote that holds it.
        endpoint: the remote's S3 endpoint; empty for the default.
        copies: where this machine may have its files; None if nothing is known.
    """

    digest: str
    remote: str
    endpoint: str = ""
    copies: LocalCopies | None = field(default=None, compare=False)


def pin(source: str, snapshots: str, *, for_cluster: bool = False) -> PinnedData:
    """Resolve a data source.

    Args:
        source: see the module. The remote is the project's current default remote, also for an old revision.
        snapshots: DVC remote (folder or ``s3://``) to which the content of a folder is copied.
        for_cluster: whether pods read the data: they cannot reach the sample's remote, so a default remote goes first.

    Raises:
        UsageError: the file or folder does not exist, or is not a dataset or a ``.dvc`` file; Git does not know the revision, or
            the file at that revision.
        MistereError: the folder cannot be copied.
    """
    require_cache()
    path = Path(source)
    if path.is_dir():
        if not (path / "dataset.yaml").is_file() and _is_revision(source):
            raise UsageError(
                f"{source} is both a folder without a dataset.yaml and a Git revision: write {_TRACKED}@{source} for the revision."
            )
        return _snapshot(path.resolve(), snapshots)
    if path.suffix == ".dvc" and path.is_file():
        return _tracked(path.read_bytes(), str(path), path.resolve().parent, for_cluster)
    if _DIGEST.fullmatch(source):
        return _in_project(source, Path.cwd(), for_cluster)
    name, at, revision = source.partition(".dvc@")
    if at:
        return _at_revision(Path(f"{name}.dvc"), revision, for_cluster)
    if not path.exists() and _is_revision(source):
        return _at_revision(Path(_TRACKED), source, for_cluster)
    raise UsageError(
        f"there is no data at {source or 'an empty name'}: name a folder in the dataset form, the .dvc file that tracks one "
        "(FILE.dvc@REVISION for "
        "an earlier one), a Git revision, or a DVC digest."
    )


def _tracked(content: bytes, name: str, directory: Path, for_cluster: bool) -> PinnedData:
    """The version that the content of a ``.dvc`` file pins; the file is in ``directory``."""
    digest, path = _pinned(content, name)
    return _in_project(digest, directory, for_cluster, None if "://" in path else directory / path)


def _at_revision(path: Path, revision: str, for_cluster: bool) -> PinnedData:
    """The version that a ``.dvc`` file pinned at a Git revision.

    Raises:
        UsageError: there is no repository, no such revision, or no such file at it.
    """
    folder = path.resolve().parent
    where = next(parent for parent in (folder, *folder.parents) if parent.is_dir())  # the folder may have been deleted
    reason, fix = git_problem(where)
    if reason:
        raise UsageError(
            f"{path}@{revision}: {reason}, so there are no revisions of {path.name}: {fix}, or name the file without @{revision}."
        )
    commit = None if revision.startswith("-") else _commit(where, revision)
    if commit is None:
        raise UsageError(f"{path}@{revision}: Git knows no revision {revision!r}; `git log` and `git tag` list them.")
    content = _git(where, "show", f"{commit}:./{(folder / path.name).relative_to(where).as_posix()}")
    if content is None:
        raise UsageError(
            f"{path}@{revision}: there was no {path.name} at that revision; `{command_line('git', 'log', '--', path)}` lists "
            "those that have it."
        )
    return _tracked(content, f"{path}@{revision}", where, for_cluster)


def _is_revision(name: str) -> bool:
    return bool(name) and not name.startswith("-") and _commit(Path.cwd(), name) is not None


def _commit(where: Path, revision: str) -> str | None:
    output = _git(where, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return None if output is None else output.decode("ascii").strip()


def _git(where: Path, *arguments: str) -> bytes | None:
    """Git's standard output; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None


def _pinned(content: bytes, name: str) -> tuple[str, str]:
    """Digest and path of the tracked folder."""
    try:
        tracked = load_yaml(content)
        folder = Path(str(tracked.get("wdir", "."))) / str(tracked["outs"][0].get("path", ""))
        return str(tracked["outs"][0]["md5"]), str(folder)
    except (ParseError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UsageError(f"{name} pins no digest: it should be what `dvc add` writes (outs, with an md5).") from error


def _in_project(digest: str, directory: Path, for_cluster: bool, folder: Path | None = None) -> PinnedData:
    """A version in the DVC project around a directory.

    Its remote is the sample's, or the project's default one, without credentials. Without a default remote, a local run takes the
    project's cache, which has the layout of a remote. Only the project's configuration is read: unlike a ``Repo``, that needs no
    Git repository, so a downloaded archive will do.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.fs import get_fs_config
    from dvc.repo import Repo

    try:
        home = Path(Repo.find_root(str(directory))) / Repo.DVC_DIR
    except NotDvcRepoError as error:
        raise UsageError(
            f"{directory} is not inside a DVC project: run `git init` and `dvc init` above it, or name the dataset's folder."
        ) from error
    try:
        config = Config(str(home))
        default = config["core"].get("remote")
        # resolves remote:// references
        settings = get_fs_config(config, name=default) if default in config["remote"] else {}
    except DvcException as error:
        raise UsageError(f"the DVC configuration in {home} cannot be used ({error}): correct it.") from error
    copies = LocalCopies(Path(config["cache"].get("dir") or home / "cache"), folder)
    remote, endpoint = str(settings.get("url") or ""), str(settings.get("endpointurl") or "")
    sample = home / "sample-remote"
    is_sample = sample.is_dir() and Path(remote).is_dir() and sample.samefile(remote)
    refused = is_sample
    if _DIGEST.fullmatch(digest) and (is_sample or not (remote and for_cluster)):
        copy = sample / "files" / "md5" / digest[:2] / digest[2:]
        if copy.is_file() and not _is_ignored(copy):
            return PinnedData(digest, str(sample), copies=copies)
        refused |= copy.is_file() and not remote
    if refused:
        raise UsageError(
            f"{digest} is kept in {sample}, which is a part of this repository and only for its sample: {_OWN_STORAGE}."
        )
    if not remote:
        if not for_cluster and _DIGEST.fullmatch(digest) and copies.of_object(digest).is_file():
            return PinnedData(digest, str(copies.cache), copies=copies)
        raise UsageError(f"the DVC project at {home.parent} has no default remote for {digest}: {_OWN_STORAGE}.")
    return PinnedData(digest, without_credentials(remote), endpoint, copies)


def _is_ignored(file: Path) -> bool:
    """Whether Git ignores a file and so does not have it."""
    return _git(file.parent, "check-ignore", "--quiet", str(file)) is not None


def _snapshot(folder: Path, remote: str) -> PinnedData:
    """Transfer a folder into a remote like ``dvc add --to-remote``; files in the remote are not sent again."""
    from dvc.exceptions import DvcException

    if not (folder / "dataset.yaml").is_file():
        raise UsageError(f"{folder / 'dataset.yaml'} is missing: a dataset folder needs one beside its parquet shards.")
    if remote.startswith("s3://"):
        check_access(remote, listing=True)
    elif "://" not in remote:
        Path(remote).mkdir(parents=True, exist_ok=True)
    project = cache_directory("snapshots")
    tracked = project / "data.dvc"
    try:
        with dvc_project(project, remote) as repo:
            tracked.unlink(missing_ok=True)
            repo.add(str(folder), out=str(project / "data"), to_remote=True)
            return PinnedData(_pinned(tracked.read_bytes(), str(tracked))[0], remote)
    except (DvcException, OSError) as error:
        failure = disk_error(error, remote)
        if failure is None and remote.startswith("s3://"):
            check_access(remote, listing=True)  # DVC gives no reason
        raise failure or MistereError(
            f"{folder} could not be copied to {remote} ({error}): check that all its files are readable."
        ) from error
