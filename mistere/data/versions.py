"""From what a person names to what a run is pinned to: a DVC digest and a remote.

A name is a folder in the dataset form, a ``.dvc`` file, ``FILE.dvc@REVISION`` (that file as it was at a Git revision), a Git
revision (of ``data.dvc``), or a DVC digest (in the default remote of the project one is in). It is resolved by whoever starts
the run, never inside a stage: a container needs no Git and no working tree.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import yaml

from mistere.artifacts.s3_probe import check_access
from mistere.common.errors import DataError, UsageError
from mistere.common.os_errors import disk_error
from mistere.common.paths import cache_directory
from mistere.data.dvc_remote import dvc_project

_DIGEST = re.compile(r"[0-9a-f]{32}\.dir")
_TRACKED = "data.dvc"
_GIT_SECONDS = 30


@dataclass(frozen=True)
class PinnedData:
    """A dataset version: the digest that DVC pins, the remote that holds it, and the remote's S3 endpoint, if it names one."""

    digest: str
    remote: str
    endpoint: str = ""


def pin(source: str, snapshots: str) -> PinnedData:
    """Resolve a data source.

    Args:
        source: see the module; the remote is the default one of the project as it is configured now, also for a version of
            long ago.
        snapshots: a DVC remote (folder or ``s3://``) that takes a snapshot of a folder.

    Raises:
        DataError: there is no such file or folder, or it is not what it should be.
        UsageError: a revision or file that Git does not know.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "dataset.yaml").is_file() and _is_revision(source):
            raise DataError(
                f"{source} is a folder without a dataset.yaml, and a Git revision too: write {_TRACKED}@{source} for the revision."
            )
        return _snapshot(path.resolve(), snapshots)
    if path.suffix == ".dvc" and path.is_file():
        return _tracked(path.read_bytes(), str(path), path.resolve().parent)
    if _DIGEST.fullmatch(source):
        return PinnedData(source, *_default_remote(Path.cwd()))
    name, at, revision = source.partition(".dvc@")
    if at:
        return _at_revision(Path(f"{name}.dvc"), revision)
    if not path.exists() and _is_revision(source):
        return _at_revision(Path(_TRACKED), source)
    raise DataError(
        f"there is no data at {source}: name a folder in the dataset form, the .dvc file that tracks one (FILE.dvc@REVISION for "
        "an earlier one), a Git revision, or a DVC digest."
    )


def _tracked(content: bytes, name: str, project: Path) -> PinnedData:
    return PinnedData(_pinned_digest(content, name), *_default_remote(project))


def _at_revision(path: Path, revision: str) -> PinnedData:
    """What a ``.dvc`` file pinned at a Git revision.

    Raises:
        UsageError: no repository, no such revision, or no such file in it.
    """
    folder = path.resolve().parent
    where = next(place for place in (folder, *folder.parents) if place.is_dir())  # the folder may be gone since
    if _git(where, "rev-parse", "--git-dir") is None:
        raise UsageError(
            f"{path}@{revision}: {where} is in no Git repository, so there are no revisions of {path.name}."
        )
    commit = None if revision.startswith("-") else _commit(where, revision)
    if commit is None:
        raise UsageError(f"{path}@{revision}: Git knows no revision {revision!r}; `git log` and `git tag` list them.")
    content = _git(where, "show", f"{commit}:./{(folder / path.name).relative_to(where).as_posix()}")
    if content is None:
        raise UsageError(f"{path}@{revision}: there was no {path.name} at that revision.")
    return _tracked(content, f"{path}@{revision}", where)


def _is_revision(name: str) -> bool:
    return bool(name) and not name.startswith("-") and _commit(Path.cwd(), name) is not None


def _commit(where: Path, revision: str) -> str | None:
    found = _git(where, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return None if found is None else found.decode("ascii").strip()


def _git(where: Path, *arguments: str) -> bytes | None:
    """What Git answers; None where it refuses, or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, timeout=_GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None


def _pinned_digest(content: bytes, name: str) -> str:
    try:
        return str(yaml.safe_load(content.decode("utf-8"))["outs"][0]["md5"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{name} pins no digest: it should be what `dvc add` writes (outs, with an md5).") from error


def _default_remote(project: Path) -> tuple[str, str]:
    """URL and S3 endpoint of a project's default remote; credentials stay where they are."""
    from dvc.exceptions import DvcException
    from dvc.fs import get_fs_config
    from dvc.repo import Repo

    try:
        with closing(Repo(str(project))) as repo:
            name = repo.config["core"].get("remote")
            if name not in repo.config["remote"]:
                raise DataError(
                    f"the DVC project at {project} has no default remote: set one with `dvc remote default`."
                )
            settings = get_fs_config(repo.config, name=name)  # follows remote:// to the one it refers to
            return str(settings["url"]), str(settings.get("endpointurl") or "")
    except DvcException as error:
        raise DataError(f"{project} is not inside a DVC project ({error}).") from error


def _snapshot(folder: Path, remote: str) -> PinnedData:
    """Transfer a folder into a remote as ``dvc add --to-remote`` does; what is there already is not sent again."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not (folder / "dataset.yaml").is_file():
        raise DataError(f"{folder / 'dataset.yaml'} is missing: a dataset folder needs one beside its parquet shards.")
    if remote.startswith("s3://"):
        check_access(remote, listing=True)
    elif "://" not in remote:
        Path(remote).mkdir(parents=True, exist_ok=True)
    with dvc_project(cache_directory("snapshots"), remote) as project:
        tracked = project / "data.dvc"
        tracked.unlink(missing_ok=True)
        try:
            with closing(Repo(str(project))) as repo:
                repo.add(str(folder), out=str(project / "data"), to_remote=True)
        except (DvcException, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            failure = disk_error(cause, remote) if isinstance(cause, OSError) else None
            raise failure or DataError(f"{folder} could not be read whole ({error}).") from error
        return PinnedData(_pinned_digest(tracked.read_bytes(), str(tracked)), remote)
