"""What others wrote does not control the terminal, on whichever line of a command it is."""

from __future__ import annotations

import ast
import io
import json

import pytest
from rich.text import Text

from mistere.common.names import terminal_text
from mistere.common.paths import PROJECT_ROOT
from pipelines.cli.output.console import OutputConsole, harmless_json, print_text

HOSTILE = "joy\x1b[2J\x9b31m\u202e"
HARMLESS = "joy?[2J?31m?"


def test_control_characters_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    console = OutputConsole(file=file, highlight=False)
    console.print(f"label {HOSTILE}\nnext", markup=False, soft_wrap=True)
    console.print(Text("label ", style="bold").append(HOSTILE, style="red"))
    print_text(f"label {HOSTILE}\nnext")
    expected = f"label {HARMLESS}\nnext\n"
    assert file.getvalue() == f"{expected}label {HARMLESS}\n" and capsys.readouterr().out == expected


def test_json_is_the_same_without_control_characters() -> None:
    content = {"label": HOSTILE, "Où?": ["zu Hause\n", "😀 \u2028 \ud800"], HOSTILE: 1}
    text = harmless_json(json.dumps(content, ensure_ascii=False, indent=1))
    assert json.loads(text) == content and "Où?" in text and "😀" in text
    assert all(terminal_text(line) == line for line in text.split("\n"))


def test_styles_stay() -> None:
    file = io.StringIO()
    OutputConsole(file=file, force_terminal=True, color_system="standard", _environ={}).print(
        Text("ok ").append(HOSTILE, style="red").append(" end")
    )
    assert file.getvalue() == f"ok \x1b[31m{HARMLESS}\x1b[0m end\n"


def test_every_command_prints_through_it() -> None:
    for file in (PROJECT_ROOT / "pipelines" / "cli").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        assert not [one for one in calls if isinstance(one, ast.Name) and one.id == "Console"], file
