"""Why no commit of the code is known, with what Git itself answers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mistere.common.digests import git_problems
from mistere.common.digests.git_problems import git_problem, missing_commit
from mistere.common.errors import UsageError
from mistere.common.paths import check_folder
from mistere.common.processes.child_environment import child_environment


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_the_reason_and_the_remedy_are_those_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """▶ Each of these was "no Git repository", said by the gate after the training."""
    folder = tmp_path / "C# code"
    (folder / "archive").mkdir(parents=True)
    (folder / "archive" / "pyproject.toml").touch()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert git_problem(folder) == (
        f"{folder} is in no Git repository",
        "use a clone instead of a downloaded archive",
    )
    git(folder, "init", "--quiet")
    assert git_problem(folder) == (f"the Git repository of {folder} has no commit yet", "commit the files")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "first")
    assert git_problem(folder) == ("", "")
    monkeypatch.setattr(git_problems, "PROJECT_ROOT", folder / "archive")
    assert "does not track it" in missing_commit()[0]

    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # Git then answers as for a folder of another user
    reason, fix = git_problem(folder)
    assert reason == f"{folder} belongs to another user, so Git does not read it"
    assert fix == f"run `git config --global --add safe.directory '{folder}'`, or run this as its owner"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_problem(folder)[0] == "Git is not installed"
    monkeypatch.setattr(git_problems, "is_checkout", lambda: False)
    assert "is an installed package" in missing_commit()[0]


def test_folders_that_cannot_work_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has a colon in its name, which PYTHONPATH cannot hold"):
        child_environment(tmp_path / "a:b")
    for name in ("two\nlines", "\x1b[31m", "\udcff"):
        with pytest.raises(UsageError, match=r"--output '.*' holds a line break or another control character"):
            check_folder(tmp_path / name, "--output")
    check_folder(tmp_path / "C# code, Müller\u00a0& 日本", "--output")
