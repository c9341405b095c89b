"""Why no commit of the project's tree is known, and what to do about it."""

from __future__ import annotations

import os
import subprocess

from mistere.common.names import shown
from mistere.common.paths import PROJECT_ROOT, is_checkout
from mistere.common.processes.command_line import command_line

AFFECTS_RESULTS = False
"""Whether a commit is known changes no result."""

_SECONDS = 30
_TRUST = command_line("git", "config", "--global", "--add", "safe.directory", PROJECT_ROOT)


def missing_commit() -> tuple[str, str]:
    """The reason, as a clause after "because", and the remedy, as an imperative; both empty if there is a commit."""
    if not is_checkout():
        return "its code is an installed package", "run it in a clone of the repository"
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            cwd=PROJECT_ROOT,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return "Git is not installed", "install it (on Debian: `apt-get install git`)"
    except (OSError, subprocess.SubprocessError) as error:
        return f"Git does not work ({shown(str(error))})", "correct that"
    message = answer.stderr.strip()
    if "dubious ownership" in message:
        return f"the folder {PROJECT_ROOT} belongs to another user, so Git does not read it", f"run `{_TRUST}`"
    if "not a git repository" in message:
        return "its code is in no Git repository", "use a clone instead of a downloaded archive"
    if answer.returncode and "Needed a single revision" in message:
        return "its Git repository has no commit yet", "commit the code"
    if answer.returncode:
        return f"Git does not name its commit ({shown(message.splitlines()[-1] if message else '')})", "correct that"
    if subprocess.run(
        ["git", "ls-files", "--error-unmatch", "pyproject.toml"], cwd=PROJECT_ROOT, capture_output=True, check=False
    ).returncode:
        return "the Git repository around its folder does not track it", "use a clone, or commit the folder there"
    return "", ""
