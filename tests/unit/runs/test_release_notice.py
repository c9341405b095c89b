"""A run from a tree with uncommitted changes says at its start that its model cannot be released."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.common.errors import MistereError
from pipelines.cli.commands import run as command
from pipelines.cli.output import release_notice as release_notice_module
from pipelines.cli.output.release_notice import release_notice
from pipelines.profiles import load_profile


def test_the_notice_names_files_and_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = load_profile("tiny", ["gate.allow_uncommitted=false"]).gate
    assert release_notice(gate, "4f2a9c1", False, "") == ""
    assert release_notice(gate, "4f2a9c1", True, "a.py, b.py and 2 more") == (
        "this run cannot be released because of uncommitted changes in a.py, b.py and 2 more: commit them, or continue with "
        "--set gate.allow_uncommitted=true."
    )
    monkeypatch.setattr(release_notice_module, "missing_commit", lambda: ("Git is not installed", "install it"))
    assert release_notice(gate, "", False, "").startswith(
        "this run cannot be released because Git is not installed: install it, or continue with --set"
    )
    allowed = load_profile("tiny", ["gate.allow_uncommitted=true"]).gate
    assert release_notice(allowed, "4f2a9c1", True, "a.py") == release_notice(allowed, "", False, "") == ""


def test_the_notice_comes_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "git_state", lambda: ("4f2a9c1", True))
    monkeypatch.setattr(command, "uncommitted_files", lambda: ("pipelines/a.py",))
    options = ("tiny", str(tmp_path / "nothing"), ["gate.allow_uncommitted=false"], tmp_path / "output")
    with pytest.raises(MistereError, match="there is no data at"):
        command.run(*options)
    assert capsys.readouterr().out.startswith(
        "this run cannot be released because of uncommitted changes in pipelines/a.py: "
    )
