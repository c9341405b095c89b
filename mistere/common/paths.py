"""Directories on this machine: the cache, and the directory that holds the project's packages."""

from __future__ import annotations

import os
from pathlib import Path

from mistere.common.errors import UsageError
from mistere.common.names import path_below

AFFECTS_RESULTS = False
"""Where files lie changes no result."""

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds ``mistere``, ``components`` and ``pipelines``: a checkout, an image's ``/app``, or site-packages."""

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
        UsageError: the parts lead out of the cache.
    """
    base = os.environ.get("MISTERE_CACHE")
    home = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mistere"
    return path_below(home, "/".join(parts), "the cache", UsageError) if parts else home
