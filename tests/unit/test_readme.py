"""What the README tells people to type is there: commands with their options, settings, targets, files."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import click
import pytest
import typer
import yaml

from mistere.config.loader import SECTIONS
from pipelines.cli.app import app
from pipelines.profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
_SHELL = re.findall(r"```(?:bash|console)\n(.*?)```", TEXT, re.DOTALL)
_LINES = [line for block in _SHELL for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
_TYPED = [match[1] for line in _LINES if (match := re.match(r"\s*(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?mistere (.+)", line))]
_NAMED = re.findall(r"`mistere ([a-z][^`]*)`", TEXT.replace("\n", " "))
COMMANDS = sorted({re.split(r"\s[>|&;#]", command)[0].strip() for command in [*_TYPED, *_NAMED]})
PROFILES = [
    content
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    if isinstance(content := yaml.safe_load(block), dict) and set(content) <= {*SECTIONS, "cluster", "seed"}
]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that is meant, and its arguments."""
    found: click.Command = typer.main.get_command(app)
    while isinstance(found, click.Group) or hasattr(found, "commands"):
        assert words and words[0] in found.commands, f"there is no {words[0] if words else found.name}"
        found, words = found.commands[words[0]], words[1:]
    return found, words


def test_they_are_found() -> None:
    assert len(COMMANDS) > 50 and len(PROFILES) >= 2


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_exists_with_its_options_and_settings(command: str) -> None:
    words = [word for word in shlex.split(command) if word != "…"]
    if words[0] != "bench":
        found, rest = command_of(words)
        known = {option for parameter in found.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= known, f"mistere {command}: no {given - known}"
        settings = [value for option, value in pairwise(rest) if option == "--set"]
        profile = next((value for option, value in pairwise(rest) if option == "--profile"), "sample")
        load_profile(profile, [setting for setting in settings if "=" in setting])
    else:
        assert (ROOT / "tests" / "bench" / f"{words[1]}.py").is_file()


@pytest.mark.parametrize("content", PROFILES, ids=lambda content: "+".join(content))
def test_a_profile_is_one(content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    load_profile(str(tmp_path / "own.yaml"), [])


def test_targets_and_files_are_there() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    typed = re.findall(r"^make ([a-z0-9-]+)", "\n".join(_LINES), re.MULTILINE)
    assert {*typed, *re.findall(r"`make ([a-z0-9-]+)`", TEXT)} <= targets
    named = re.findall(
        r"(?<![\w/.-])(?:components|pipelines|manifests|docker|tests)/[\w./-]*\.(?:py|yaml|json|hcl|sh)\b", TEXT
    )
    assert named and not {path for path in named if not (ROOT / path).is_file()}
