"""Who decided on a version and why may hold anything: it is kept and shown without what controls a terminal or is no UTF-8."""

from __future__ import annotations

import os
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError, UsageError
from mistere.common.names import terminal_text
from mistere.registry.release.promotion_log import PromotionEvent, add, read_log, who
from pipelines.cli import registry_location
from pipelines.cli.commands.registry import decide
from pipelines.cli.expected_errors import expected_errors
from pipelines.cli.output.tables import Column, print_table
from pipelines.cli.registry_app import registry_app

HOSTILE = "Fine.\x1b[2J\x1b]0;title\x07\u202eabc"
SHOWN = "Fine.?[2J?]0;title??abc"


def test_what_is_left_of_a_text() -> None:
    assert terminal_text(HOSTILE) == SHOWN
    assert terminal_text("Größe 7\u00a0kg, می\u200cخواهم 🙂") == "Größe 7\u00a0kg, می\u200cخواهم 🙂"
    assert terminal_text("two\nlines\u2028more") == "two?lines?more"


def test_an_actor_that_is_no_utf8_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_ACTOR", os.fsdecode(b"J\xfcrgen\x1b[31m"))
    event = PromotionEvent(
        at=1.0, action="reject", outcome="done", before="none", after="a" * 64, version="1", reason="Why.", by=who()
    )
    store = LocalStore(tmp_path)
    add(store, event)
    assert [kept.by for kept in read_log(store).events] == ["J?rgen?[31m"]


@pytest.mark.parametrize("command", ["approve", "reject"])
def test_a_reason_is_kept_on_one_line_without_control_characters(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    monkeypatch.setattr(registry_location, "registry_location", lambda *_: None)
    monkeypatch.setattr(decide, command, lambda location, version, model, reason, **_: reasons.append(reason))
    given = f"{HOSTILE}\n and {os.fsdecode(bytes([255]))}"
    assert CliRunner().invoke(registry_app, [command, "1", "--reason", given]).exit_code == 0
    assert reasons == [f"{SHOWN} and ?"]


@pytest.mark.parametrize("command", [decide.approve, decide.reject])
def test_a_model_of_which_no_version_waits_is_no_decision(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion, which an earlier decision released, is not decided on again."""
    versions = [types.SimpleNamespace(version="1", bundle_digest="a" * 64)]
    monkeypatch.setattr(decide, "registered_versions", lambda _, name: versions if name == "mistere" else [])
    monkeypatch.setattr(decide, "standings", lambda *_: {"a" * 64: types.SimpleNamespace(state="released")})
    location = types.SimpleNamespace(store=LocalStore(tmp_path), tracking_uri="", find=pytest.fail)
    with pytest.raises(UsageError, match="no version of mistere waits for a decision: `mistere models` lists them"):
        command(location, "mistere", "mistere", "Why.")


def test_tables_and_errors_show_what_others_wrote_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(Console(width=200), [Column("reason", folds=True)], [[HOSTILE]])
    with pytest.raises(SystemExit), expected_errors(verbose=False):
        raise MistereError(f"ann rejected version 1 before: {HOSTILE}")
    printed = capsys.readouterr()
    assert SHOWN in printed.out and SHOWN in printed.err and "\x1b" not in printed.out + printed.err
