"""Directories on this machine, the cache among them, and paths as URLs."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from mistere.common.errors import MistereError, UsageError
from mistere.common.names import has_control_character, path_below, shown

AFFECTS_RESULTS = False
"""Where files lie changes no result."""

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds ``mistere``, ``components`` and ``pipelines``: a checkout, an image's ``/app``, or site-packages."""

_PLAIN: Final = re.compile(r"[\w/. ,+@~=()'-]+")
"""A path that SQLAlchemy and MLflow read from a URL as it is."""

LOCK_FILE = PROJECT_ROOT / "requirements.lock"
"""The pinned versions; missing where the project is installed as a package (see :func:`is_checkout`)."""


def is_checkout() -> bool:
    """Whether the code runs from a source tree, and not from a package that pip has installed."""
    return (PROJECT_ROOT / "pyproject.toml").is_file()


def require_checkout(command: str) -> Path:
    """The root of the checkout.

    Args:
        command: what needs it, as the subject of the error.

    Raises:
        UsageError: the code is installed as a package.
    """
    if not is_checkout():
        raise UsageError(
            f"{command} needs a checkout of the project, and this is the package installed in {PROJECT_ROOT}: clone the "
            "repository, run `make setup` in it, and use its .venv/bin/mistere."
        )
    return PROJECT_ROOT


def cache_directory(*parts: str) -> Path:
    """``$MISTERE_CACHE`` (default ``$XDG_CACHE_HOME/mistere``) with ``parts`` below it. Safe to delete at any time.

    Raises:
        UsageError: the parts lead out of the cache, or nothing names a home directory.
    """
    base = os.environ.get("MISTERE_CACHE")
    home = Path(base).absolute() if base else _user_cache() / "mistere"
    return path_below(home, "/".join(parts), "the cache", UsageError) if parts else home


def require_cache() -> None:
    """Create the cache, if it does not exist, and check the home directory; every command that pins data calls this first.

    Raises:
        MistereError: the cache cannot be written to, for example because the home directory is read-only.
        UsageError: ``HOME`` names a folder that this user may not enter; libraries look for their settings there.
    """
    import tempfile

    folder = cache_directory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MistereError(
            f"the cache {folder} cannot be written to ({error.strerror}): set MISTERE_CACHE to a folder that can be."
        ) from error
    home = os.environ.get("HOME", "")
    try:
        (Path(home) / ".config").stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(
            f"the home directory {home} cannot be read ({error.strerror}): set HOME to a folder of this user."
        ) from error


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path("~/.cache").expanduser()
    except RuntimeError as error:  # no HOME, and no entry for this user in the system's list
        raise UsageError(
            "this user has no home directory to keep the cache in: set HOME, or set MISTERE_CACHE to a folder."
        ) from error


def check_folder(folder: Path, what: str) -> None:
    """Refuse a folder whose name records and messages could not show: with a line break, another control character, or no UTF-8.

    Args:
        folder: the folder; any folder above it counts too.
        what: what names it, as the subject of the error.

    Raises:
        UsageError: its path holds such a character.
    """
    if has_control_character(str(folder)):
        raise UsageError(
            f"{what} {shown(str(folder))} holds a line break or another control character: rename the folder, or choose another."
        )


def missing_folders(folder: Path) -> list[Path]:
    """A folder and those above it, as far as they do not exist; the deepest first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


@contextmanager
def removed_if_refused(created: Sequence[Path], files: Collection[str] = ()) -> Iterator[None]:
    """Delete folders that a command has created, if it fails before it leaves anything in them.

    Args:
        created: what :func:`missing_folders` found before; nothing is deleted if it is empty.
        files: names of files that do not count as left, such as the lock that the caller holds.
    """
    try:
        yield
    except BaseException:
        content = sorted(created[0].rglob("*"), reverse=True) if created else []
        if all(path.is_dir() or path.name in files for path in content):
            with suppress(OSError):  # another process writes there
                for path in (*content, *created):
                    if path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink()
        raise


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite database for SQLAlchemy, which MLflow and Optuna use.

    SQLAlchemy decodes the path of a URL and ends it at ``?``. MLflow reads the same URL without decoding it, and makes a folder
    of that name, where the URL names no driver (``_make_parent_dirs_if_sqlite`` in mlflow/store/db/utils.py of 3.17).
    """
    text = str(path.absolute())
    return f"sqlite:///{text}" if _PLAIN.fullmatch(text) else f"sqlite+pysqlite:///{quote(text, safe='/ +')}"


def file_url(path: Path) -> str:
    """A path as MLflow reads it: the path itself, or a ``file://`` URL where MLflow would decode the path or cut it off."""
    text = str(path.absolute())
    return text if _PLAIN.fullmatch(text) else path.absolute().as_uri()


def path_of(location: str) -> Path:
    """The path of a location that is a path or a ``file://`` URL."""
    return Path(unquote(location.removeprefix("file://"))) if location.startswith("file://") else Path(location)
