"""Why Git knows no commit of a folder, and what to do about it, as parts of a sentence."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from mistere.common.names import shown
from mistere.common.paths import PROJECT_ROOT, is_checkout
from mistere.common.processes.command_line import command_line

AFFECTS_RESULTS = False
"""Whether a commit is known changes no result."""

_SECONDS = 30


def git_problem(folder: Path) -> tuple[str, str]:
    """Why Git knows no commit of a folder.

    Returns:
        The reason, as a clause after "because", and the remedy, as an imperative; both empty if there is a commit.
    """
    try:
        answer = _git(folder, "rev-parse", "--verify", "HEAD")
    except FileNotFoundError:
        return "Git is not installed", "install it (on Debian: `apt-get install git`)"
    except (OSError, subprocess.SubprocessError) as error:
        return f"Git does not work ({shown(str(error))})", "correct that"
    message = answer.stderr.strip()
    if answer.returncode == 0:
        return "", ""
    if "dubious ownership" in message:
        trust = command_line("git", "config", "--global", "--add", "safe.directory", folder)
        return f"{folder} belongs to another user, so Git does not read it", f"run `{trust}`, or run this as its owner"
    if "not a git repository" in message:
        return f"{folder} is in no Git repository", "use a clone instead of a downloaded archive"
    if "Needed a single revision" in message:
        return f"the Git repository of {folder} has no commit yet", "commit the files"
    return f"Git fails in {folder} ({shown(message.splitlines()[-1] if message else '')})", "correct that"


def missing_commit() -> tuple[str, str]:
    """Why :func:`mistere.common.digests.code.git_state` knows no commit: as :func:`git_problem`, but never empty."""
    if not is_checkout():
        return "its code is an installed package", "run it in a clone of the repository"
    reason, fix = git_problem(PROJECT_ROOT)
    if reason:
        return reason, fix
    if _git(PROJECT_ROOT, "ls-files", "--error-unmatch", "pyproject.toml").returncode:
        return f"the Git repository around {PROJECT_ROOT} does not track it", "use a clone, or commit it there"
    return "Git did not answer in time", "run it again"


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},  # its messages in English
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
    )
