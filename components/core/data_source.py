"""From what a person names (a ``.dvc`` file or a folder) to what a run is pinned to: a DVC digest and a remote.

Done by whoever starts the run, never inside a stage: a container needs no Git and no working tree.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import yaml

from components.core.disk import disk_error
from components.core.errors import DataError
from components.core.places import cache_directory
from components.core.remote_data import dvc_project


@dataclass(frozen=True)
class PinnedData:
    """A dataset version: the digest that DVC pins and the remote that holds it."""

    digest: str
    remote: str


def pin(source: str, snapshots: str) -> PinnedData:
    """Resolve a data source.

    Args:
        source: a ``.dvc`` file, whose project's default remote is used, or a folder in the dataset form.
        snapshots: a DVC remote (folder or ``s3://``) that takes a snapshot of a folder.

    Raises:
        DataError: there is no such file or folder, or it is not what it should be.
    """
    path = Path(source)
    if path.is_dir():
        return _snapshot(path.resolve(), snapshots)
    if path.suffix == ".dvc" and path.is_file():
        return PinnedData(_pinned_digest(path), _default_remote(path.resolve().parent))
    raise DataError(
        f"there is no data at {source}: name a folder in the dataset form, or the .dvc file that tracks one."
    )


def _pinned_digest(path: Path) -> str:
    try:
        return str(yaml.safe_load(path.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} pins no digest: it should be what `dvc add` writes (outs, with an md5).") from error


def _default_remote(project: Path) -> str:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with closing(Repo(str(project))) as repo:
            name = repo.config["core"].get("remote")
            remotes = repo.config["remote"]
            if name not in remotes:
                raise DataError(
                    f"the DVC project at {project} has no default remote: set one with `dvc remote default`."
                )
            return str(remotes[name]["url"])
    except DvcException as error:
        raise DataError(f"{project} is not inside a DVC project ({error}).") from error


def _snapshot(folder: Path, remote: str) -> PinnedData:
    """Transfer a folder into a remote as ``dvc add --to-remote`` does; what is there already is not sent again."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not (folder / "dataset.yaml").is_file():
        raise DataError(f"{folder / 'dataset.yaml'} is missing: a dataset folder needs one beside its parquet shards.")
    if "://" not in remote:
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
        return PinnedData(_pinned_digest(tracked), remote)
