"""``mistere --version``: what is installed, without importing any of it."""

from __future__ import annotations

import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version

from mistere.common.digests.code import git_state
from mistere.common.paths import PROJECT_ROOT, is_checkout


def version_text() -> str:
    """One line with the versions of mistere (with its commit), Python, and PyTorch where it is installed."""
    parts = [f"mistere {_own_version()} ({_commit()})", f"Python {platform.python_version()}"]
    if torch := _installed("torch"):
        parts.append(f"torch {torch}")
    return ", ".join(parts)


def _own_version() -> str:
    if is_checkout():
        project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["version"])
    return _installed("mistere") or "unknown"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    commit, dirty = git_state()
    if not commit:
        return "no commit known" if is_checkout() else f"installed in {PROJECT_ROOT}"
    return f"commit {commit[:12]}{', with uncommitted changes' if dirty else ''}"
